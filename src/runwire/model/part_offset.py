"""Offsets of parts: `<attempt>_<byte>`, zero-padded so that they sort as strings. Opaque to all but this package."""

from __future__ import annotations

import re
from typing import Final

PART_BEGINNING: Final = "-1"
"""The offset of the first byte of a part, in whatever attempt."""
_OFFSET: Final = re.compile(r"([0-9]{10})_([0-9]{20})")


def offset_text(attempt: int, at: int) -> str:
    """The offset of byte `at` of an attempt."""
    return f"{attempt:010d}_{at:020d}"


def place_of(offset: str) -> tuple[int, int] | None:
    """The attempt and the byte that an offset names; None for a text that is none."""
    match = _OFFSET.fullmatch(offset)
    return None if match is None else (int(match[1]), int(match[2]))
