"""Ratios as a picture: bars that leave the line of what they are compared with, to the right when they are better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.report import times

LEFT, WIDE, RIGHT = 330, 470, 60
BAR, GAP, HEAD, FOOT = 13, 13, 74, 50
COLOURS = ("#2563eb", "#0d9488", "#d97706", "#9333ea", "#64748b")
BEHIND_OPACITY = 0.45
FONT = "font-family='-apple-system,Segoe UI,Helvetica,Arial,sans-serif'"


@dataclass(frozen=True, slots=True)
class Group:
    """A measured figure, and its ratio to each peer, by the peer's name."""

    label: str
    ratios: dict[str, float]


def svg(title: str, axis: str, groups: Sequence[Group], *, target: str) -> str:
    """The picture, 860 wide on white. The axis is logarithmic, its line at 1 is `target`."""
    names = list(dict.fromkeys(name for group in groups for name in group.ratios))
    found = [ratio for group in groups for ratio in group.ratios.values() if ratio > 0]
    low = min(-0.3, math.log10(min(found)) - 0.1)
    high = max(0.3, math.log10(max(found)) + 0.1)

    def x(ratio: float) -> float:
        return LEFT + (math.log10(ratio) - low) / (high - low) * WIDE

    height = HEAD + sum(len(group.ratios) * BAR + GAP for group in groups) + FOOT
    bottom = height - FOOT
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {LEFT + WIDE + RIGHT} {height}' {FONT} role='img'>",
        f"<title>{escape(title)}</title><rect width='100%' height='100%' fill='#fff'/>",
        _text(20, 28, title, size=16, weight=600),
    ]
    if len(names) > 1:
        at = 20.0
        for n, name in enumerate(names):
            parts.append(f"<rect x='{at}' y='41' width='11' height='11' rx='2' fill='{COLOURS[n % len(COLOURS)]}'/>")
            parts.append(_text(at + 16, 51, name, size=12, fill="#475569"))
            at += 16 + 7.2 * len(name) + 18
    for tick in _ticks(low, high):
        parts.append(f"<line x1='{x(tick):.1f}' x2='{x(tick):.1f}' y1='{HEAD}' y2='{bottom}' stroke='#e2e8f0'/>")
        parts.append(_text(x(tick), bottom + 16, f"{tick:g} x", size=11, fill="#64748b", anchor="middle"))
    top = float(HEAD + GAP / 2)
    for group in groups:
        middle = top + len(group.ratios) * BAR / 2
        parts.append(_text(LEFT - 14, middle + 4, group.label, size=12, anchor="end"))
        for name, ratio in group.ratios.items():
            fill = COLOURS[names.index(name) % len(COLOURS)]
            start, end = sorted((x(1), x(ratio)))
            opacity = 1 if ratio >= 1 else BEHIND_OPACITY
            parts.append(
                f"<rect x='{start:.1f}' y='{top + 1.5:.1f}' width='{max(1.0, end - start):.1f}' "
                f"height='{BAR - 3}' rx='2' "
                f"fill='{fill}' fill-opacity='{opacity}'/>"
            )
            inside = end + 4 if ratio >= 1 else x(1) + 4
            parts.append(_text(inside, top + BAR - 3, f"{times(ratio)} x", size=10, fill="#334155"))
            top += BAR
        top += GAP
    parts.append(
        f"<line x1='{x(1):.1f}' x2='{x(1):.1f}' y1='{HEAD - 6}' y2='{bottom}' stroke='#0f172a' stroke-width='1.5'/>"
    )
    parts.append(_text(x(1), HEAD - 10, target, size=11, fill="#0f172a", anchor="middle"))
    parts.append(_text(LEFT + WIDE / 2, height - 14, axis, size=12, fill="#475569", anchor="middle"))
    return "\n".join([*parts, "</svg>\n"])


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten, and what lies between where there are few."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    steps = (1, 1.5, 2, 3, 5, 7) if high - low < 1.2 else (1, 2, 5) if high - low < 2 else (1,)
    return [step * 10.0**decade for decade in decades for step in steps if low <= math.log10(step) + decade <= high]


def _text(
    x: float, y: float, words: str, *, size: int, fill: str = "#0f172a", anchor: str = "start", weight: int = 400
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' fill='{fill}' text-anchor='{anchor}' font-weight='{weight}'>"
        f"{escape(words)}</text>"
    )
