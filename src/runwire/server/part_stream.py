"""Reads of a part as a Durable Stream: catch-up, long-poll, and server-sent events.

Offsets are opaque to clients. One of an attempt that was begun again is gone (410).
"""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Final

import msgspec
from aiohttp import HttpVersion11, web

from runwire.clock import JITTER, monotonic, wait_until_set, wall_us
from runwire.content.part import Part
from runwire.content.part_feed import PartFeed
from runwire.content.parts import PartReader, Read
from runwire.errors import ArtifactErased, InvalidRequest, PartReset, RunwireError
from runwire.model.part_offset import PART_BEGINNING, offset_text, place_of
from runwire.model.text import whole_characters

NEXT_OFFSET: Final = "Stream-Next-Offset"
UP_TO_DATE: Final = "Stream-Up-To-Date"
CLOSED: Final = "Stream-Closed"
CURSOR: Final = "Stream-Cursor"
ENCODING: Final = "Stream-SSE-Data-Encoding"
BASE64: Final = "base64"
READ_MAX: Final = 262_144
"""Bytes of one answer or frame."""
LOOK_S: Final = 1.0
"""Seconds after which a reader that heard nothing looks into PostgreSQL."""
_CURSOR_S: Final = 20
"""A Stream-Cursor names an interval of so many seconds, so that caches join those who wait for the same."""
_CURSOR_EPOCH_S: Final = 1_728_432_000
_LINE_ENDS: Final = re.compile(rb"\r\n|\r|\n")


def offset_in(text: str, part: Part) -> int:
    """The byte that an offset means. Raises InvalidRequest (`invalid_offset`) and PartReset."""
    if text == PART_BEGINNING:
        return 0
    if text == "now":
        return part.size
    place = place_of(text)
    if place is None:
        raise InvalidRequest("offset must be -1, now, or a Stream-Next-Offset.", code="invalid_offset")
    attempt, at = place
    if attempt < part.attempt:
        raise PartReset(part.run_id, n=part.n, attempt=part.attempt)
    if attempt > part.attempt or at > part.size:
        raise InvalidRequest("The offset is past the end of the part.", code="invalid_offset")
    return at


def headers_of(part: Part, at: int, *, closed: bool) -> dict[str, str]:
    """The state of a part for a client that has `at` bytes of it."""
    headers = {NEXT_OFFSET: offset_text(part.attempt, at)}
    if at >= part.size:
        headers[UP_TO_DATE] = "true"
        if closed:
            headers[CLOSED] = "true"
    return headers


def stream_cursor(echoed: str | None) -> str:
    """The present interval; a later one than the client's, so that two requests never share a cached answer."""
    now = (wall_us() // 1_000_000 - _CURSOR_EPOCH_S) // _CURSOR_S
    if echoed is not None and echoed.isascii() and echoed.isdigit() and len(echoed) < 16 and int(echoed) >= now:
        return str(int(echoed) + JITTER.randrange(1, 180))
    return str(now)


def etag_of(read: Read, *, closed: bool) -> str:
    part = read.part
    return f"{part.part_id}-{read.offset}-{read.next_offset}{'-end' if closed and read.up_to_date else ''}"


class Rotation:
    """The time at which a stream of a part ends, for its client to come back."""

    def __init__(self, *, in_s: float) -> None:
        self.at = monotonic() + in_s

    def rotate_within(self, seconds: float) -> None:
        """Rotates the stream no later: the client's permission does not hold for longer."""
        self.at = min(self.at, monotonic() + seconds)


async def next_read(
    reader: PartReader,
    feed: PartFeed,
    run_id: str,
    n: int,
    *,
    attempt: int,
    at: int,
    within_s: float,
    known: int = 0,
    rotation: Rotation | None = None,
) -> Read:
    """The bytes after `at`, or the end of the part; nothing new when neither came in time. Raises PartReset and
    ArtifactErased.

    The first `known` of the bytes are no news. A rotation ends the wait.
    """
    until = monotonic() + within_s
    with feed.waiting(run_id) as news:
        while True:
            news.clear()
            read = await reader.read(run_id, n, offset=at, limit=READ_MAX)
            if read.part.attempt != attempt:
                raise PartReset(run_id, n=n, attempt=read.part.attempt)
            if read.part.erased and read.part.artifact is not None:
                raise ArtifactErased(run_id, read.part.artifact)
            left_s = (until if rotation is None else min(until, rotation.at)) - monotonic()
            if len(read.data) > known or read.closed or left_s <= 0 or feed.draining:
                return read
            await wait_until_set(news, within_s=min(left_s, LOOK_S))


async def serve_sse(
    request: web.Request,
    reader: PartReader,
    feed: PartFeed,
    first: Read,
    *,
    rotation: Rotation,
    slow_s: float,
    heartbeat_s: float,
) -> web.StreamResponse:
    """The part from `first` on as server-sent events, until it is closed or the stream is rotated.

    Lines of an event end in one way only, so text loses its carriage returns. A client that asks for base64 gets the
    very bytes.
    """
    part = first.part
    text = part.is_text and request.headers.get(ENCODING, "").lower() != BASE64
    headers = {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
        **({} if text else {ENCODING: BASE64}),
    }
    response = web.StreamResponse(headers=headers)
    response.force_close()
    if request.version >= HttpVersion11:
        response.enable_chunked_encoding()
    await response.prepare(request)
    cursor = request.query.get("cursor")
    read, told = first, False
    try:
        while True:
            data = whole_characters(read.data, last=read.closed) if text else read.data
            at = read.offset + len(data)
            over = read.closed and at >= read.part.size
            if data or not told or over:
                frame = (_data_frame(data, text=text) if data else b"") + _control_frame(
                    read.part, at, closed=over, cursor=cursor
                )
                await asyncio.wait_for(response.write(frame), slow_s)
                told = True
            if over or monotonic() >= rotation.at or feed.draining:
                return response
            known = len(read.data) - len(data)  # of half a character, whose rest may take its time
            read = await next_read(
                reader, feed, part.run_id, part.n, attempt=part.attempt, at=at, within_s=heartbeat_s, known=known,
                rotation=rotation,
            )  # fmt: skip
            if len(read.data) <= known and not read.closed:
                await asyncio.wait_for(response.write(b": heartbeat\n\n"), slow_s)
    except (ConnectionError, TimeoutError, RunwireError):  # gone, slow, begun again, or not to be read now: the headers
        # are out, so no problem can be said. The client comes back, and is told.
        if request.transport is not None:
            request.transport.abort()
        return response


def _data_frame(data: bytes, *, text: bool) -> bytes:
    lines = _LINE_ENDS.split(data) if text else [base64.b64encode(data)]
    # A reader drops one blank after the colon: a line that begins with one gets another.
    told = [b"data:%b%b\n" % (b" " if line.startswith(b" ") else b"", line) for line in lines]
    return b"event: data\n" + b"".join(told) + b"\n"


def _control_frame(part: Part, at: int, *, closed: bool, cursor: str | None) -> bytes:
    control: dict[str, object] = {"streamNextOffset": offset_text(part.attempt, at)}
    if not closed:
        control["streamCursor"] = stream_cursor(cursor)
    if at >= part.size:
        control["upToDate"] = True
    if closed:
        control["streamClosed"] = True
    return b"event: control\ndata:%b\n\n" % msgspec.json.encode(control)
