"""Mixed streams: the events of a run with the bytes of its parts, each exactly once.

Each step reads what comes after a cursor: the run's position first, then its parts, then events and bytes. So every
part that an event speaks of is known. An event that ends an attempt comes after all bytes of it. Bytes of an attempt
come after the event that opened it. Clients at the same place share a step.

A step depends on its cursor alone. Hints of the bus and of parts only say when to take the next one; a look each second
finds what they missed.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias

import msgspec

from runwire.bus import BusReader
from runwire.content.part import Part, PartState
from runwire.content.part_feed import PartFeed
from runwire.content.parts import PartReader
from runwire.errors import CursorPastTail, InvalidRequest
from runwire.model.event import Source, WireEncoder
from runwire.model.text import whole_characters
from runwire.stream.log import LogReader, Position, Stretch
from runwire.stream.mixed_cursor import MixedCursor
from runwire.stream.tail import End

LOOK_S: Final = 1.0
PART_BYTES: Final = 32_768
"""Bytes of one part in a step."""
EVENTS: Final = 500
Names: TypeAlias = frozenset[str] | None
"""The parts that a client asks for; None for all."""


@dataclass(frozen=True, slots=True)
class Step:
    """Frames that bring a client to `cursor`; none when there is nothing new. `end`: the run is over after them.

    `written_us` is when the newest of the bytes was stored, for their lag.
    """

    frames: bytes
    cursor: MixedCursor
    events: int
    end: End | None = None
    written_us: int | None = None


class MixedReader:
    """Reads steps of mixed streams. Raises what LogReader and PartReader raise."""

    def __init__(self, reader: LogReader, parts: PartReader) -> None:
        self._reader = reader
        self._parts = parts
        self._under_way: dict[tuple[str, Names, str], asyncio.Task[Step]] = {}

    async def step(self, run_id: str, cursor: MixedCursor, *, names: Names) -> Step:
        """The next frames for a client at the cursor. Calls for the same place share one read.

        Raises RunNotFound, CursorPastTail, CursorExpired, and InvalidRequest for a cursor past the end of a part.
        """
        key = (run_id, names, cursor.text)
        under_way = self._under_way.get(key)
        if under_way is not None:
            step = await asyncio.shield(under_way)
            if step.frames or step.end is not None:
                return step
            # It may have looked before the news that this caller follows. One that is under way now began after it.
        task = self._under_way.get(key)
        if task is None or task is under_way:
            task = asyncio.create_task(self._step(run_id, cursor, names), name=f"mixed step of {run_id}")
            self._under_way[key] = task
            task.add_done_callback(partial(self._forget, key))
        return await asyncio.shield(task)

    def _forget(self, key: tuple[str, Names, str], task: asyncio.Task[Step]) -> None:
        if self._under_way.get(key) is task:
            del self._under_way[key]

    async def _step(self, run_id: str, cursor: MixedCursor, names: Names) -> Step:
        position = await self._reader.position(run_id)
        if cursor.seq > position.last_seq:
            raise CursorPastTail(run_id, cursor=cursor.seq, last_seq=position.last_seq)
        parts = [_ending_with(part, position) for part in await self._parts.of_run(run_id)]
        chosen = [part for part in parts if names is None or part.name in names]
        frames = _Frames(run_id, cursor)
        upto = position.published
        for part in chosen:
            if part.opened_seq > cursor.seq:
                upto = min(upto, part.opened_seq)  # its bytes come next
            elif part.ended_seq is None or part.ended_seq > cursor.seq:
                complete = await self._read_part(part, frames)
                if part.ended_seq is not None and not complete:
                    upto = min(upto, part.ended_seq - 1)
        if upto > cursor.seq:
            stretch = Stretch(run_id, position.run_day, cursor.seq, upto)
            ends = {part.ended_seq: part.n for part in chosen}
            for event in await self._reader.events(stretch, limit=EVENTS):
                frames.event(frames.encoder.json(event), event.seq, over=ends.get(event.seq))
        over = position.closed and frames.cursor.seq >= position.last_seq
        end = End(position.state.value, position.last_seq) if over else None
        return Step(b"".join(frames.frames), frames.cursor, frames.events, end, frames.written_us)

    async def _read_part(self, part: Part, frames: _Frames) -> bool:
        """Adds bytes of an attempt whose beginning the client knows. Returns whether the client has all of it then."""
        if part.erased:
            return True
        begun = part.n in frames.cursor.places
        attempt, at = frames.cursor.places.get(part.n, (part.attempt, 0))
        if attempt > part.attempt or (attempt == part.attempt and at > part.size):
            raise InvalidRequest("The cursor is past the end of a part.", code="invalid_cursor")
        if attempt < part.attempt or (part.attempt > 1 and not begun):
            at = 0
            frames.reset(part)
        while at < part.size:
            read = await self._parts.read(part.run_id, part.n, offset=at, limit=PART_BYTES)
            if read.part.part_id != part.part_id:
                return False  # begun again meanwhile: the next step knows
            last = part.ended_seq is not None and read.next_offset >= part.size
            data = whole_characters(read.data, last=last) if part.is_text else read.data
            if not data:
                return False
            frames.content(part, at, data)
            at += len(data)
            if part.ended_seq is None or frames.full:
                break
        return at >= part.size


class _Frames:
    """The frames of one step."""

    def __init__(self, run_id: str, cursor: MixedCursor) -> None:
        self.cursor = cursor
        self.frames: list[bytes] = []
        self.events = 0
        self.written_us: int | None = None
        self.encoder = WireEncoder(run_id, source=Source.OUTBOX)
        self._size = 0

    @property
    def full(self) -> bool:
        return self._size > 4 * PART_BYTES

    def event(self, json: str, seq: int, *, over: int | None) -> None:
        """`over`: the number of the part that the event ends."""
        places = self.cursor.places
        if over in places:
            places = {n: place for n, place in places.items() if n != over}
        self.cursor = MixedCursor(seq, places)
        self.events += 1
        self._add(f"id: {self.cursor.text}\ndata: {json}\n\n".encode())

    def reset(self, part: Part) -> None:
        data: dict[str, object] = {"part": part.n, "attempt": part.attempt, "offset": 0, "reset": True}
        self.cursor = MixedCursor(self.cursor.seq, {**self.cursor.places, part.n: (part.attempt, 0)})
        self._part(data)

    def content(self, part: Part, at: int, data: bytes) -> None:
        content: dict[str, object] = {"part": part.n, "attempt": part.attempt, "offset": at}
        try:
            content |= {"text": data.decode()} if part.is_text else {"base64": base64.b64encode(data).decode()}
        except UnicodeDecodeError:  # bytes that only claim to be text
            content |= {"base64": base64.b64encode(data).decode()}
        self.cursor = MixedCursor(self.cursor.seq, {**self.cursor.places, part.n: (part.attempt, at + len(data))})
        self.written_us = max(self.written_us or 0, part.written_us or 0)
        self._part(content)

    def _part(self, content: dict[str, object]) -> None:
        self._add(b"event: part\nid: %b\ndata: %b\n\n" % (self.cursor.text.encode(), msgspec.json.encode(content)))

    def _add(self, frame: bytes) -> None:
        self.frames.append(frame)
        self._size += len(frame)


def _ending_with(part: Part, position: Position) -> Part:
    """A part that was left open ends with its run: its bytes come before the terminal event."""
    if part.ended_seq is None and position.closed:
        return replace(part, state=PartState.ABANDONED, ended_seq=position.last_seq)
    return part


class MixedNews:
    """Wakes the clients of watched runs: one subscription and one timer for each run, however many watch it."""

    def __init__(self, bus: BusReader, feed: PartFeed) -> None:
        self._bus = bus
        self._feed = feed
        self._watched: dict[str, _Watched] = {}

    @asynccontextmanager
    async def of(self, run_id: str) -> AsyncIterator[asyncio.Event]:
        """Inside the block the event is set whenever there may be something new. Subscribed when it begins."""
        watched = self._watched.get(run_id)
        if watched is None:
            watched = self._watched[run_id] = _Watched(run_id, self._bus, self._feed)
        news = asyncio.Event()
        watched.clients.add(news)
        try:
            await asyncio.shield(watched.ready)
            yield news
        finally:
            watched.clients.discard(news)
            if not watched.clients and self._watched.get(run_id) is watched:
                del self._watched[run_id]
                await watched.aclose()


class _Watched:
    def __init__(self, run_id: str, bus: BusReader, feed: PartFeed) -> None:
        self.clients: set[asyncio.Event] = set()
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        self._task = asyncio.create_task(self._run(run_id, bus, feed), name=f"mixed news of {run_id}")

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, run_id: str, bus: BusReader, feed: PartFeed) -> None:
        try:
            async with bus.subscribe(run_id, lambda _message: self._wake()):
                with feed.listening(run_id, lambda _written: self._wake()):
                    self.ready.set_result(None)
                    while True:
                        await asyncio.sleep(LOOK_S)
                        self._wake()
        except Exception as error:
            if not self.ready.done():
                self.ready.set_exception(error)
            raise

    def _wake(self) -> None:
        for news in self.clients:
            news.set()
