"""Draws the spans of a trace as a waterfall: one SVG, no scripts, nothing from elsewhere."""  # noqa: INP001  # a script

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final, TypeAlias

WIDTH: Final = 1400
LABELS: Final = 452
"""Where the bars begin."""
RIGHT: Final = 44
TOP: Final = 180
ROW: Final = 30
BAR: Final = 16
INDENT: Final = 20
INK: Final = "#1c2430"
PALE: Final = "#6b7686"
LINE: Final = "#e3e8ee"
RED: Final = "#c8322b"
SANS: Final = "DejaVu Sans, sans-serif"
DEFS: Final = (
    "<defs><marker id='tip' viewBox='0 0 10 10' refX='8' refY='5' markerWidth='8' markerHeight='8' orient='auto'>"
    f"<path d='M0 0 L10 5 L0 10 z' fill='{RED}'/></marker>"
    "<pattern id='lost' width='7' height='7' patternUnits='userSpaceOnUse' patternTransform='rotate(45)'>"
    f"<rect width='7' height='7' fill='#fbe3e1'/><rect width='2.5' height='7' fill='{RED}' opacity='.5'/></pattern>"
    "</defs>"
)

Span: TypeAlias = Mapping[str, Any]
Place: TypeAlias = Callable[[int], float]
"""Where a moment, in nanoseconds, is on the picture."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A process: what it is called in the legend, and its colours."""

    name: str
    colour: str
    tint: str


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened and is no span."""

    at_ns: int
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """A span, or several childless ones of the same name, parent and process."""

    spans: tuple[Span, ...]
    depth: int
    lane: Lane

    @property
    def name(self) -> str:
        return str(self.spans[0]["name"])

    @property
    def turn(self) -> bool:
        return self.name.startswith("invoke_agent")

    @property
    def failed(self) -> bool:
        return any(span["failed"] for span in self.spans)

    @property
    def note(self) -> str:
        if self.turn:
            return f"attempt {self.spans[0]['attributes']['runwire.attempt']}"
        return f"x {len(self.spans)}, {_took(self.spans)}" if len(self.spans) > 1 else ""


def rows_of(spans: Sequence[Span], *, lanes: Mapping[str, Lane]) -> list[Row]:
    """The tree of a trace, depth first, by start."""
    known = {span["span_id"] for span in spans}
    children: dict[str | None, list[Span]] = {}
    for span in sorted(spans, key=lambda span: int(span["start_ns"])):
        parent = span["parent_id"] if span["parent_id"] in known else None
        children.setdefault(parent, []).append(span)
    rows: list[Row] = []

    def add(parent: str | None, depth: int) -> None:
        together: dict[tuple[str, ...], list[Span]] = {}
        for span in children.get(parent, []):
            alone = (span["span_id"],) if span["span_id"] in children else ()
            together.setdefault((span["name"], span["lane"], *alone), []).append(span)
        for group in together.values():
            rows.append(Row(tuple(group), depth, lanes[group[0]["lane"]]))
            if group[0]["span_id"] in children:
                add(group[0]["span_id"], depth + 1)

    add(None, 0)
    return rows


def waterfall(
    rows: Sequence[Row],
    *,
    lanes: Sequence[Lane],
    title: str,
    subtitle: str,
    footer: Sequence[str],
    moments: Sequence[Moment],
) -> tuple[str, int]:
    """The picture as an `<svg>` element, and its height in pixels."""
    begin = min(span["start_ns"] for row in rows for span in row.spans)
    end = max(span["end_ns"] for row in rows for span in row.spans)
    scale = (WIDTH - LABELS - RIGHT) / (end - begin)
    bottom = TOP + ROW * len(rows)
    height = bottom + 46 + 18 * len(footer)

    def x(at_ns: int) -> float:
        return round(LABELS + (at_ns - begin) * scale, 2)

    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' viewBox='0 0 {WIDTH} {height}'>",
        f"<rect width='{WIDTH}' height='{height}' fill='#ffffff'/>{DEFS}",
        _text(32, 50, title, size=24, weight="bold"),
        _text(32, 76, subtitle, size=13, colour=PALE, mono=True),
        *_legend([lane for lane in lanes if any(row.lane is lane for row in rows)]),
        *_axis(begin, end, x, bottom),
        *[_moment(moment.text, x(moment.at_ns), bottom) for moment in moments],
    ]
    for number, row in enumerate(rows):
        parts += _row(row, TOP + ROW * number, x)
    parts += _links(rows, x)
    parts.append(f"<line x1='32' y1='{bottom + 16}' x2='{WIDTH - 32}' y2='{bottom + 16}' stroke='{LINE}'/>")
    parts += [_text(32, bottom + 38 + 18 * n, line, size=11.5, colour=PALE) for n, line in enumerate(footer)]
    return "\n".join([*parts, "</svg>"]), height


def _legend(lanes: Sequence[Lane]) -> list[str]:
    parts, at = [], 32.0
    for lane in lanes:
        parts.append(f"<rect x='{at}' y='97' width='14' height='14' rx='4' fill='{lane.colour}'/>")
        parts.append(_text(at + 21, 109, lane.name, size=13))
        at += 21 + 7.6 * len(lane.name) + 26
    return parts


def _axis(begin: int, end: int, x: Place, bottom: int) -> list[str]:
    seconds = (end - begin) / 1e9
    step = next(step for step in (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60) if seconds / step <= 12)
    parts = []
    for n in range(int(seconds / step) + 1):
        at = x(begin + round(n * step * 1e9))
        parts.append(f"<line x1='{at}' y1='{TOP - 6}' x2='{at}' y2='{bottom}' stroke='{LINE}'/>")
        parts.append(_text(at, TOP - 13, f"{n * step:g} s", size=11, colour=PALE, anchor="middle"))
    return parts


def _moment(text: str, at: float, bottom: int) -> str:
    width = 7.7 * len(text) + 22
    return (
        f"<line x1='{at}' y1='{TOP - 34}' x2='{at}' y2='{bottom + 4}' stroke='{RED}' stroke-width='1.5' "
        f"stroke-dasharray='5 4'/><rect x='{at - width / 2}' y='{TOP - 54}' width='{width}' height='22' rx='11' "
        f"fill='{RED}'/>"
        + _text(at, TOP - 39, text, size=12, colour="#fff", weight="bold", anchor="middle", halo=False)
    )


def _row(row: Row, y: int, x: Place) -> list[str]:
    left, middle = 32 + INDENT * row.depth, y + ROW / 2
    node = row.name.removeprefix("invoke_node ")
    label = f"<tspan fill='{INK}'>{escape(row.name)}</tspan>"
    if node != row.name:
        label = (
            f"<tspan fill='{PALE}'>invoke_node </tspan><tspan fill='{INK}' font-weight='bold'>{escape(node)}</tspan>"
        )
    note = f"<tspan fill='{RED if row.failed else PALE}' dx='8' font-size='11.5'>{escape(row.note)}</tspan>"
    parts = [
        f"<line x1='32' y1='{y + ROW}' x2='{WIDTH - RIGHT + 12}' y2='{y + ROW}' stroke='{LINE}' opacity='.6'/>",
        f"<rect x='{left}' y='{middle - 6}' width='4' height='12' rx='2' fill='{row.lane.colour}'/>",
        f"<text x='{left + 11}' y='{middle + 4.5}' font-family='{SANS}' font-size='13'>{label}{note}</text>",
        _text(LABELS - 14, middle + 4, str(row.spans[0]["kind"]), size=9, colour=PALE, anchor="end"),
    ]
    fill = "url(#lost)" if row.failed else row.lane.tint if row.turn else row.lane.colour
    edge = RED if row.failed else row.lane.colour
    for span in row.spans:
        from_x = x(span["start_ns"])
        width = max(x(span["end_ns"]) - from_x, 2.5)
        outline = f" stroke='{edge}'" if width > 4 else ""
        parts.append(
            f"<rect x='{from_x}' y='{middle - BAR / 2}' width='{width:.2f}' height='{BAR}' "
            f"rx='{min(4, width / 2):.2f}' fill='{fill}'{outline}/>"
        )
    if len(row.spans) == 1:
        parts.append(_duration(row, x, middle + 4))
    return parts


def _duration(row: Row, x: Place, y: float) -> str:
    """In the bar where there is room, beside it where there is none."""
    (span,) = row.spans
    took = " ".join(filter(None, [_took(row.spans), str(span["attributes"].get("error.type", ""))]))
    from_x, to_x = x(span["start_ns"]), x(span["end_ns"])
    beside = max(to_x, from_x + 3) + 8
    if row.failed:
        return _text(beside, y, took, size=11.5, colour=RED, weight="bold")
    if to_x - from_x < 8 * len(took) + 10:
        return _text(beside, y, took, size=11, colour=PALE)
    colour = row.lane.colour if row.turn else "#ffffff"
    return _text(from_x + 9, y, took, size=11, colour=colour, weight="bold", halo=False)


def _links(rows: Sequence[Row], x: Place) -> list[str]:
    """An arrow from each turn to the turn it goes on from."""
    where = {row.spans[0]["span_id"]: (row, TOP + ROW * n + ROW / 2) for n, row in enumerate(rows) if row.turn}
    parts = []
    for row, y in where.values():
        for _, target in row.spans[0]["links"]:
            earlier, to_y = where[target]
            from_x, to_x = x(row.spans[0]["start_ns"]) + 1, x(earlier.spans[0]["end_ns"])
            top, tip = y - BAR / 2, to_y + BAR / 2 + 3
            parts.append(
                f"<path d='M{from_x} {top} C{from_x} {top - 90}, {to_x} {tip + 90}, {to_x} {tip}' fill='none' "
                f"stroke='{RED}' stroke-width='2' marker-end='url(#tip)'/>"
            )
            said = {"size": 12, "colour": RED, "weight": "bold"}
            parts.append(_text(max(from_x, to_x) + 12, (y + to_y) / 2 + 5, "link: goes on from", **said))
    return parts


def _took(spans: Sequence[Span]) -> str:
    total_ms = sum(span["end_ns"] - span["start_ns"] for span in spans) / 1e6
    if total_ms >= 1000:
        return f"{total_ms / 1000:.2f} s"
    if total_ms < 0.1:
        return f"{total_ms * 1000:.0f} \N{MICRO SIGN}s"
    return f"{total_ms:.0f} ms" if total_ms >= 10 else f"{total_ms:.1f} ms"


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    colour: str = INK,
    weight: str = "normal",
    anchor: str = "start",
    mono: bool = False,
    halo: bool = True,
) -> str:
    family = "DejaVu Sans Mono, monospace" if mono else SANS
    around = " stroke='#fff' stroke-width='4' stroke-linejoin='round' paint-order='stroke'" if halo else ""
    return (
        f"<text x='{x}' y='{y}' font-family='{family}' font-size='{size}' font-weight='{weight}' fill='{colour}' "
        f"text-anchor='{anchor}'{around}>{escape(text)}</text>"
    )
