"""Reads of a part as a Durable Stream: catch-up, long-poll, and server-sent events.

Offsets are opaque to clients. One of an attempt that was begun again is gone (410).
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Final, Self

import msgspec
from aiohttp import HttpVersion11, web

from runwire.clock import JITTER, monotonic, wait_until_set, wall_us
from runwire.content.part import Part
from runwire.content.part_feed import PartFeed
from runwire.content.part_metrics import PartMetrics
from runwire.content.part_writer import Written
from runwire.content.parts import PartReader, Read, check_not_erased
from runwire.errors import InvalidRequest, PartReset, RunwireError
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


class PartReads:
    """The reads of a process's readers of parts. Those that wait at the same place share one."""

    def __init__(self, feed: PartFeed, metrics: PartMetrics, *, now_us: Callable[[], int] = wall_us) -> None:
        """`now_us`: the clock that the parts' times are of."""
        self.feed = feed
        self._metrics = metrics
        self.now_us = now_us
        self._under_way: dict[object, asyncio.Task[Read]] = {}

    async def read(self, reader: PartReader, part: Part, *, at: int) -> Read:
        """The bytes from `at` on, as of some moment after the call, or news that a call under way has found."""
        key = (part.run_id, part.n, at)  # all who ask were let in to the run before
        task = under_way = self._under_way.get(key)
        if under_way is not None:
            read = await asyncio.shield(under_way)
            if read.data or read.closed:
                return read
            task = self._under_way.get(key)  # it may have looked before the news that this caller follows
        if task is None or task is under_way:
            task = asyncio.create_task(reader.read(part.run_id, part.n, offset=at, limit=READ_MAX), name="read a part")
            self._under_way[key] = task
            task.add_done_callback(partial(self._forget, key))
        return await asyncio.shield(task)

    def _forget(self, key: object, task: asyncio.Task[Read]) -> None:
        if self._under_way.get(key) is task:
            del self._under_way[key]
        if not task.cancelled():
            task.exception()  # every reader may have left meanwhile

    def note_delivery(self, read: Read, *, since_us: int) -> None:
        """Bytes for which a client has waited were written to it. The first of them were there since then, if that is
        known: the time of a part is that of its last bytes.
        """
        if read.data and read.part.written_us is not None:
            written_us = min(read.part.written_us, since_us or read.part.written_us)
            self._metrics.lag.observe(max(self.now_us() - written_us, 0) / 1e6)


class PartTail:
    """One reader at the end of a part. Inside its block it keeps the bytes of which the process hears."""

    def __init__(self, reads: PartReads, reader: PartReader, part: Part, *, at: int) -> None:
        self.at = at
        """The reader has so many bytes. Set it as it goes on."""
        self.since_us = 0
        """When the first of the bytes that `next` gave were there, or heard of (epoch us); 0: nobody knows."""
        self._reads = reads
        self._reader = reader
        self._part = part
        self._news = asyncio.Event()
        self._news_us = 0
        self._look = True
        self._heard = b""
        self._heard_at = 0
        self._listening = reads.feed.listening(part.run_id, self._hear)

    def __enter__(self) -> Self:
        self._listening.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.__exit__(None, None, None)

    def _hear(self, written: Written | None) -> None:
        part = self._part
        if written is None:
            self._look = True
        elif written.n != part.n:
            return
        elif written.attempt != part.attempt or len(self._heard) + len(written.data) > READ_MAX:
            self._look = True
        else:
            if self._heard and written.at == self._heard_at + len(self._heard):
                self._heard += written.data
            else:
                self._heard, self._heard_at = written.data, written.at
            self._part = replace(part, written_us=written.written_us)
        self._news_us = self._news_us or (self._reads.now_us() if written is None else written.written_us)
        self._news.set()

    def _take(self) -> Read | None:
        """Bytes that were heard of and follow on what the reader has."""
        heard, skip = self._heard, self.at - self._heard_at
        self._heard = b""
        if not 0 <= skip < len(heard):
            self._look = self._look or (bool(heard) and skip < 0)
            return None
        data = heard[skip:]
        self._part = replace(self._part, size=max(self._part.size, self.at + len(data)))
        return Read(self._part, self.at, data, closed=False)

    async def next(self, *, within_s: float, known: int = 0, rotation: Rotation | None = None) -> Read:
        """The bytes after `at`, or the end of the part; nothing new when neither came in time. Raises PartReset,
        PartErased and ArtifactErased.

        The first `known` of the bytes are no news. A rotation ends the wait.
        """
        until = monotonic() + within_s
        while True:
            self._news.clear()
            self.since_us, self._news_us = self._news_us, 0
            if (heard := self._take()) is not None:
                return heard
            if self._look:
                read = await self._looked()
                if len(read.data) > known or read.closed:
                    return read
            left_s = (until if rotation is None else min(until, rotation.at)) - monotonic()
            if left_s <= 0 or self._reads.feed.draining:
                return Read(self._part, self.at, b"", closed=False)
            if not await wait_until_set(self._news, within_s=min(left_s, LOOK_S)):
                self._look = True

    async def _looked(self) -> Read:
        self._look = False
        read = await self._reads.read(self._reader, self._part, at=self.at)
        part = read.part
        if part.attempt != self._part.attempt:
            raise PartReset(part.run_id, n=part.n, attempt=part.attempt)
        check_not_erased(part)
        self._part = part
        return read


async def serve_sse(
    request: web.Request,
    reader: PartReader,
    reads: PartReads,
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
    read, told, live = first, False, False
    tail = PartTail(reads, reader, part, at=first.offset)
    with tail, _hanging_up(request):
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
                if live:
                    reads.note_delivery(read, since_us=tail.since_us)
            if over or monotonic() >= rotation.at or reads.feed.draining:
                return response
            known = len(read.data) - len(data)  # of half a character, whose rest may take its time
            tail.at, live = at, at + known >= read.part.size
            read = await tail.next(within_s=heartbeat_s, known=known, rotation=rotation)
            if len(read.data) <= known and not read.closed:
                await asyncio.wait_for(response.write(b": heartbeat\n\n"), slow_s)
    return response


@contextmanager
def _hanging_up(request: web.Request) -> Iterator[None]:
    """Ends a connection that is gone, slow, or whose part is begun again or not to be read now: the headers are out, so
    no problem can be said. The client comes back, and is told.
    """
    try:
        yield
    except (ConnectionError, TimeoutError, RunwireError):
        if request.transport is not None:
            request.transport.abort()


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
