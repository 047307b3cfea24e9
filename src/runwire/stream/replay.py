"""A closed run once more, in its own time or faster: a source of pieces, read from the log or from the archive."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AbstractContextManager
from typing import Final

from runwire.clock import monotonic
from runwire.errors import CursorPastTail, InvalidRequest, RunStillOpen
from runwire.model.event import Source, StoredEvent
from runwire.stream.fanout import Follower
from runwire.stream.frames import Frames
from runwire.stream.log import LogReader, Position, Stretch
from runwire.stream.piece import Piece
from runwire.stream.tail import End
from runwire.telemetry.metrics import DeliveryPath

SPEED_MAX: Final = 1000.0
AS_FAST_AS_POSSIBLE: Final = float("inf")
_TOGETHER_S: Final = 0.002
"""Events that are due within so many seconds go out together."""


def parse_speed(text: str | None) -> float:
    """How much faster than the run the replay is: 1 unless given, at most 1000, or `max`.

    Raises InvalidRequest (`invalid_speed`).
    """
    if text is None:
        return 1.0
    if text == "max":
        return AS_FAST_AS_POSSIBLE
    with contextlib.suppress(ValueError):
        if len(text) <= 8 and text.isascii() and 0 < (speed := float(text)) <= SPEED_MAX:
            return speed
    raise InvalidRequest(f"speed must be a number up to {SPEED_MAX:g}, or max", code="invalid_speed")


class Replay:
    """The source of one client's replay. The times between events are those of the run, divided by the speed."""

    path = DeliveryPath.REPLAY
    flushed_at = 0.0
    writing = False

    def __init__(self, reader: LogReader, position: Position, *, speed: float, page_events: int) -> None:
        self._reader = reader
        self._position = position
        self._speed = speed
        self._page_events = page_events
        self._frames = Frames(position.run_id, source=Source.REPLAYER)
        self._page: tuple[StoredEvent, ...] = ()
        self._at = 0
        """The first event of the page that was not sent."""
        self._began: float | None = None
        self._first_us = 0
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def open(cls, reader: LogReader, run_id: str, *, after: int, speed: float, page_events: int) -> Replay:
        """A replay of the events above `after`, with its first page.

        Raises RunNotFound, RunStillOpen, CursorPastTail, CursorExpired, ArchiveUnavailable and DatabaseUnavailable.
        """
        position = await reader.position(run_id)
        if not position.closed or position.published < position.last_seq:
            raise RunStillOpen(run_id, state=position.state.value)
        if after > position.last_seq:
            raise CursorPastTail(run_id, cursor=after, last_seq=position.last_seq)
        replay = cls(reader, position, speed=speed, page_events=page_events)
        if after < position.last_seq:
            await replay._read(after)
        return replay

    @property
    def run_id(self) -> str:
        return self._position.run_id

    def stored_part(self, *, after: int) -> AbstractContextManager[object] | None:
        """Nothing: a replay has no live part."""

    async def piece_after(self, cursor: int) -> Piece | None:
        """The events that are due, as far as they are of one page. Raises as `open`."""
        if cursor >= self._position.last_seq:
            return None
        if self._at == len(self._page):
            await self._read(cursor)
        events, first = self._page, self._at
        now = monotonic()
        if self._began is None:
            self._began, self._first_us = now, events[first].ts_us
        if self._due(events[first]) > now:
            return None
        upto = first + 1
        while upto < len(events) and self._due(events[upto]) <= now + _TOGETHER_S:
            upto += 1
        self._at = upto
        return Piece(events[first].seq, events[upto - 1].seq, (self._frames.of(events[first:upto]),))

    def ended_for(self, cursor: int) -> End | None:
        position = self._position
        return End(position.state.value, position.last_seq) if cursor >= position.last_seq else None

    def join(self, client: Follower) -> None:
        """Wakes the client when the next event is due."""
        delay = self._due(self._page[self._at]) - monotonic()
        self._timer = asyncio.get_running_loop().call_later(max(delay, 0.0), client.wake)

    def leave(self, client: Follower) -> None:  # noqa: ARG002  # there is one
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def settled(self) -> None:
        """At once: only the session writes."""

    def to_transport(self, client: Follower) -> None:
        """Nothing: only the session writes, by the transport."""

    def note_delivery(self, count: int) -> None:
        """Nothing: the run's trace ended with the run."""

    def _due(self, event: StoredEvent) -> float:
        assert self._began is not None  # noqa: S101  # the first piece was asked for
        return self._began + (event.ts_us - self._first_us) / 1_000_000 / self._speed

    async def _read(self, after: int) -> None:
        position = self._position
        stretch = Stretch(self.run_id, position.run_day, after, position.last_seq)
        self._page, self._at = await self._reader.events(stretch, limit=self._page_events), 0
