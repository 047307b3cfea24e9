"""Durations as Prometheus and Alertmanager write them."""

from __future__ import annotations

import re
from typing import Final

_UNITS_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_WORDS: Final = {"ms": "ms", "s": "s", "m": "min", "h": "h", "d": "days"}
PATTERN: Final = r"^(0|[1-9][0-9]*)(ms|s|m|h|d)$"
"""One number and one unit: `250ms`, `2m`, `30d`."""


def seconds(text: str) -> float:
    """`2m` is 120.0."""
    count, unit = _parts(text)
    return count * _UNITS_MS[unit] / 1000


def scaled(text: str, scale: float) -> str:
    """The duration divided by `scale`, in the largest unit that holds it in whole numbers; at least 1 ms, unless 0."""
    exact = seconds(text) * 1000 / scale
    ms = max(round(exact), 1) if exact else 0
    unit = next(unit for unit, size in reversed(_UNITS_MS.items()) if ms % size == 0) if ms else "s"
    return f"{ms // _UNITS_MS[unit]}{unit}"


def spoken(text: str) -> str:
    """`2m` is `2 min`."""
    count, unit = _parts(text)
    return f"{count} {_WORDS[unit]}"


def _parts(text: str) -> tuple[int, str]:
    found = re.fullmatch(PATTERN, text)
    if found is None:
        raise ValueError(f"{text!r} is no duration like 250ms, 30s, 2m, 6h or 30d")
    return int(found[1]), found[2]
