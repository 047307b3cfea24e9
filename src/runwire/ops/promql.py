"""Rewrites PromQL: matchers for every selector of series, and labels for every aggregation."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+)
      | (?P<string>"(?:\\.|[^"\\])*")
      | (?P<matchers>\{(?:"(?:\\.|[^"\\])*"|[^}"])*\})
      | (?P<range>\[[^\]]*\])
      | (?P<number>[0-9][A-Za-z0-9_.]*)
      | (?P<name>[A-Za-z_:][A-Za-z0-9_:]*)
      | (?P<other>.)""",
    re.VERBOSE,
)
_LABELS: Final = re.compile(r"\s*\(([^)]*)\)")
_KEPT: Final = frozenset({"by", "on"})
"""Before a list of labels that are kept. Lists after `without` and `ignoring` name those that go."""
_LISTS: Final = _KEPT | {"without", "ignoring", "group_left", "group_right"}
_WORDS: Final = frozenset({"and", "or", "unless", "bool", "offset", "inf", "nan"})
_AGGREGATIONS: Final = frozenset({"sum", "min", "max", "avg", "count", "group", "stddev", "stdvar", "topk", "bottomk"})
_MATCHER: Final = re.compile(r'\s*([A-Za-z_][A-Za-z0-9_]*)\s*(=~|!~|!=|=)\s*("(?:\\.|[^"\\])*")\s*(?:,|$)')


@dataclass(frozen=True, slots=True)
class Matcher:
    """`label`, the operator and the quoted value, as PromQL has them."""

    label: str
    operator: str
    value: str

    def __str__(self) -> str:
        return f"{self.label}{self.operator}{self.value}"


def matchers_of(text: str) -> tuple[Matcher, ...]:
    """Matchers as between the braces of a selector: `job="x", env=~"a|b"`. Raises ValueError for anything else."""
    found: list[Matcher] = []
    at = 0
    while at < len(text.rstrip()):
        match = _MATCHER.match(text, at)
        if match is None:
            raise ValueError(f'{text[at:].strip()!r} is no matcher like job="x"')
        found.append(Matcher(match[1], match[2], match[3]))
        at = match.end()
    return tuple(found)


def rewritten(
    expr: str,
    *,
    selector: Callable[[str, tuple[Matcher, ...]], Sequence[Matcher]],
    labels: Callable[[tuple[str, ...]], Sequence[str]],
) -> str:
    """The expression with new matchers and labels.

    `selector` gets the name of a series and its matchers, and returns those it shall have. `labels` gets each list of
    labels that an aggregation or a match of vectors keeps, and returns the list it shall have.
    """
    out: list[str] = []
    at = 0
    while at < len(expr):
        match = _TOKEN.match(expr, at)
        if match is None:
            raise ValueError(f"not PromQL: {expr[at:]!r}")
        at, text = match.end(), match[0]
        if match.lastgroup != "name" or text in _WORDS:
            out.append(text)
        elif text in _LISTS and (listed := _LABELS.match(expr, at)):
            given = tuple(name.strip() for name in listed[1].split(",") if name.strip())
            kept = labels(given) if text in _KEPT else given
            out.append(f"{text} ({', '.join(kept)})")
            at = listed.end()
        elif expr[at:].lstrip().startswith("(") or text in _AGGREGATIONS:
            out.append(text)
        else:
            braces = _TOKEN.match(expr, at)
            given_matchers = matchers_of(braces[0][1:-1]) if braces and braces.lastgroup == "matchers" else ()
            at = braces.end() if braces and braces.lastgroup == "matchers" else at
            wanted = ", ".join(str(one) for one in selector(text, given_matchers))
            out.append(f"{text}{{{wanted}}}" if wanted else text)
    return "".join(out)
