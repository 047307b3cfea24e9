"""Conditional and range requests (RFC 9110, 13 and 14) for content that has a strong ETag."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from runwire.errors import RangeNotSatisfiable

_RANGE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Range:
    """The bytes from `start` up to, not including, `stop`."""

    start: int
    stop: int


def is_current(request: web.Request, etag: str) -> bool:
    """Whether If-None-Match names the content (13.1.2: compared weakly; `*` is any)."""
    return any(known.value in (etag.strip('"'), "*") for known in request.if_none_match or ())


def range_of(request: web.Request, *, size: int, etag: str) -> Range | None:
    """The one range that the request asks for; None for all of the content.

    Several ranges, other units and malformed ones are ignored, as 14.2 allows, and so is a range whose If-Range names
    something else, or a date: without Last-Modified no date can match. Raises RangeNotSatisfiable.
    """
    text = request.headers.get("Range", "")
    match = _RANGE.fullmatch(text.strip())
    if match is None or request.method not in ("GET", "HEAD"):
        return None
    condition = request.headers.get("If-Range")
    if condition is not None and condition.strip() != etag:  # strong comparison: no weak one matches
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:  # the last so many bytes
        if int(last) == 0 or size == 0:
            raise RangeNotSatisfiable(size)
        return Range(max(size - int(last), 0), size)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise RangeNotSatisfiable(size)
    return Range(start, min(int(last) + 1, size) if last else size)
