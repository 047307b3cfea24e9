"""Steps of mixed streams: what comes after a cursor, as PostgreSQL has it.

Each step reads the run's position first, then its parts, then events and bytes. So every part that an event speaks of
is known. An event that ends an attempt comes after all bytes of it. Bytes of an attempt come after the event that
opened it. A step depends on its cursor and target alone, and clients at the same place share one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias

from runwire.clock import wall_us
from runwire.content.part import Part, PartState
from runwire.content.parts import PartReader
from runwire.errors import CursorPastTail, InvalidRequest
from runwire.model.event import Source, WireEncoder
from runwire.model.text import whole_characters
from runwire.stream.log import LogReader, Position, Stretch
from runwire.stream.mixed.cursor import MixedCursor
from runwire.stream.mixed.frames import content_frame, event_frame, portions, reset_frame
from runwire.stream.piece import Times
from runwire.stream.tail import End

PART_BYTES: Final = 32_768
"""Bytes of one part in a step."""
EVENTS: Final = 500
Names: TypeAlias = frozenset[str] | None
"""The parts that a client asks for; None for all."""


class BytesAt(int):
    """When bytes of a part were stored (epoch us): among the times of a piece, it tells them from those of events."""

    __slots__ = ()


def counted_from(times: Sequence[Times], since_us: int) -> list[Times]:
    """The times of frames that one read found, whose first bytes were there since then (epoch us; 0: nobody knows).

    PostgreSQL says when the last bytes of a part were stored. The first ones of a slow read are older.
    """
    if not since_us:
        return list(times)
    since = BytesAt(since_us)
    return [(count, since if isinstance(at, BytesAt) and at > since_us else at) for count, at in times]


@dataclass(frozen=True, slots=True)
class Growing:
    """An attempt that may get bytes. `told` is how many of them the cursor has."""

    n: int
    part_id: int
    attempt: int
    is_text: bool
    told: int


@dataclass(frozen=True, slots=True)
class Step:
    """Frames that bring a client to `cursor`; none when there is nothing new. `end`: the run is over after them."""

    frames: bytes
    cursor: MixedCursor
    times: Sequence[Times] = ()
    """Of each frame."""
    growing: Sequence[Growing] = ()
    """The attempts that are open at the cursor."""
    end: End | None = None
    began_us: int = 0
    """When its reading began (epoch us)."""
    complete: bool = True
    """There was no more when it was read, or none up to the target."""


class MixedReader:
    """Reads steps of mixed streams. Raises what LogReader and PartReader raise."""

    def __init__(self, reader: LogReader, parts: PartReader, *, now_us: Callable[[], int] = wall_us) -> None:
        """`now_us`: the clock that the parts' times are of."""
        self._now_us = now_us
        self._reader = reader
        self._parts = parts
        self._under_way: dict[object, asyncio.Task[Step]] = {}

    async def step(
        self, run_id: str, cursor: MixedCursor, *, names: Names, target: MixedCursor | None = None, published: int = 0
    ) -> Step:
        """The next frames for a client at the cursor. Calls for the same place share one read.

        No frame goes past the target. Events up to `published` are known to be published, though PostgreSQL may not
        say so yet. Raises RunNotFound, CursorPastTail, CursorExpired, and InvalidRequest for a cursor past the end of
        a part.
        """
        key = (run_id, names, cursor.text, None if target is None else target.text, published)
        under_way = self._under_way.get(key)
        if under_way is not None:
            step = await asyncio.shield(under_way)
            if step.frames or step.end is not None:
                return step
            # It may have looked before the news that this caller follows. One that is under way now began after it.
        task = self._under_way.get(key)
        if task is None or task is under_way:
            task = asyncio.create_task(
                self._step(run_id, cursor, names, target, published), name=f"mixed step of {run_id}"
            )
            self._under_way[key] = task
            task.add_done_callback(partial(self._forget, key))
        return await asyncio.shield(task)

    def _forget(self, key: object, task: asyncio.Task[Step]) -> None:
        if self._under_way.get(key) is task:
            del self._under_way[key]
        if not task.cancelled():
            task.exception()  # every client may have left meanwhile

    async def _step(
        self, run_id: str, cursor: MixedCursor, names: Names, target: MixedCursor | None, published: int
    ) -> Step:
        began_us = self._now_us()
        position = await self._reader.position(run_id)
        if cursor.seq > position.last_seq:
            raise CursorPastTail(run_id, cursor=cursor.seq, last_seq=position.last_seq)
        parts = [_ending_with(part, position) for part in await self._parts.of_run(run_id)]
        chosen = [part for part in parts if names is None or part.name in names]
        frames = _Frames(run_id, cursor, {part.n: part.ended_seq for part in chosen})
        upto = max(position.published, min(published, position.last_seq))
        if target is not None:
            upto = min(upto, target.seq)
        goal = upto
        for part in chosen:
            if part.opened_seq > cursor.seq:
                upto = min(upto, part.opened_seq)  # its bytes come next
                frames.complete = frames.complete and part.opened_seq > goal
            elif part.ended_seq is None or part.ended_seq > cursor.seq:
                complete = await self._read_part(part, frames, target)
                if part.ended_seq is not None and not complete:
                    upto = min(upto, part.ended_seq - 1)
        if upto > cursor.seq:
            stretch = Stretch(run_id, position.run_day, cursor.seq, upto)
            for event in await self._reader.events(stretch, limit=EVENTS):
                frames.event(frames.encoder.json(event), event.seq, ts_us=event.ts_us)
        over = position.closed and frames.cursor.seq >= position.last_seq
        end = End(position.state.value, position.last_seq) if over else None
        growing = [_growing(part, frames.cursor) for part in chosen if _is_told_of(part, frames.cursor)]
        complete = frames.complete and frames.cursor.seq >= goal
        return Step(b"".join(frames.frames), frames.cursor, frames.times, growing, end, began_us, complete)

    async def _read_part(self, part: Part, frames: _Frames, target: MixedCursor | None) -> bool:
        """Adds bytes of an attempt whose beginning the client knows. Returns whether the client has all of it then."""
        if part.erased:
            return True
        begun = part.n in frames.cursor.places
        attempt, at = frames.cursor.places.get(part.n, (part.attempt, 0))
        if attempt > part.attempt or (attempt == part.attempt and at > part.size):
            raise InvalidRequest("The cursor is past the end of a part.", code="invalid_cursor")
        upto = part.size if target is None else _known_of(part, target)
        if upto is None:
            return False
        if attempt < part.attempt or (part.attempt > 1 and not begun):
            at = 0
            frames.reset(part)
        while at < upto:
            read = await self._parts.read(part.run_id, part.n, offset=at, limit=PART_BYTES)
            if read.part.part_id != part.part_id:
                frames.complete = False
                return False  # begun again meanwhile: the next step knows
            last = part.ended_seq is not None and read.next_offset >= part.size
            data = read.data if target is None else read.data[: upto - at]
            data = whole_characters(data, last=last) if part.is_text else data
            if not data:
                return False
            frames.content(part, at, data)
            at += len(data)
            if frames.full or (part.ended_seq is None and target is None):
                frames.complete = frames.complete and (at >= upto or read.up_to_date)
                break
        return at >= part.size


class _Frames:
    """The frames of one step."""

    def __init__(self, run_id: str, cursor: MixedCursor, ends: dict[int, int | None]) -> None:
        """`ends` are the seqs that end parts, by their numbers."""
        self.cursor = cursor
        self.frames: list[bytes] = []
        self.times: list[Times] = []
        self.complete = True
        """Every byte that was asked for is there, but for half a character at the end."""
        self.encoder = WireEncoder(run_id, source=Source.OUTBOX)
        self._ends = ends
        self._size = 0

    @property
    def full(self) -> bool:
        return self._size > 4 * PART_BYTES

    def event(self, json: str, seq: int, *, ts_us: int) -> None:
        places = self.cursor.places
        if any(self._ends.get(n) == seq for n in places):
            places = {n: place for n, place in places.items() if self._ends.get(n) != seq}
        self.cursor = MixedCursor(seq, places)
        self._add(event_frame(self.cursor.text, json.encode()), ts_us)

    def reset(self, part: Part) -> None:
        self._move(part, 0)
        self._add(reset_frame(self.cursor.text, part.n, part.attempt), BytesAt(part.written_us or 0))

    def content(self, part: Part, at: int, data: bytes) -> None:
        for portion in portions(data, is_text=part.is_text):
            self._move(part, at + len(portion))
            frame = content_frame(self.cursor.text, part.n, part.attempt, at, portion, is_text=part.is_text)
            self._add(frame, BytesAt(part.written_us or 0))
            at += len(portion)

    def _move(self, part: Part, at: int) -> None:
        self.cursor = MixedCursor(self.cursor.seq, {**self.cursor.places, part.n: (part.attempt, at)})

    def _add(self, frame: bytes, time_us: int) -> None:
        self.frames.append(frame)
        self.times.append((1, time_us))
        self._size += len(frame)


def _ending_with(part: Part, position: Position) -> Part:
    """A part that was left open ends with its run: its bytes come before the terminal event."""
    if part.ended_seq is None and position.closed:
        return replace(part, state=PartState.ABANDONED, ended_seq=position.last_seq)
    return part


def _known_of(part: Part, target: MixedCursor) -> int | None:
    """The bytes of an attempt that somebody at the target has; None for one who does not know of it yet, or of another
    attempt.
    """
    if part.ended_seq is not None and part.ended_seq <= target.seq:
        return part.size
    attempt, at = target.places.get(part.n, (0, 0))
    return min(at, part.size) if attempt == part.attempt else None


def _is_told_of(part: Part, cursor: MixedCursor) -> bool:
    return part.opened_seq <= cursor.seq and (part.ended_seq is None or part.ended_seq > cursor.seq)


def _growing(part: Part, cursor: MixedCursor) -> Growing:
    attempt, told = cursor.places.get(part.n, (part.attempt, 0))
    return Growing(part.n, part.part_id, part.attempt, part.is_text, told if attempt == part.attempt else 0)
