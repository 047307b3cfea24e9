"""Closed runs sent once more in their own time, or faster: from the log or from the archive, as `replayer`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import Final

from runwire.clock import monotonic, set_within
from runwire.errors import (
    ArchiveUnavailable,
    CursorExpired,
    CursorPastTail,
    DatabaseFailed,
    InvalidRequest,
    RunStillOpen,
    TooManyReplays,
)
from runwire.model.event import Source, StoredEvent
from runwire.stream.cursor import Cursor
from runwire.stream.frames import Frames
from runwire.stream.hubs import NothingLeft
from runwire.stream.limits import Limits
from runwire.stream.outlet import Outlet
from runwire.stream.reader import LogReader, Position, Stretch
from runwire.stream.sse import HEARTBEAT, chunk, end_frame, jittered_retry_ms, prelude, resumable_end
from runwire.telemetry.metrics import ConnectKind, DeliveryPath, DisconnectReason, StreamMetrics

SPEED_MAX: Final = 1000.0
AS_FAST_AS_CAN_BE: Final = float("inf")
_LOOK_S: Final = 0.05
"""How often a full buffer is looked at."""
_TICK_S: Final = 0.002
"""Events that are due so soon go out together."""


def parse_speed(text: str | None) -> float:
    """How much faster than it was a run is sent: 1 unless said otherwise, at most 1000, or `max`.

    Raises InvalidRequest (`invalid_speed`).
    """
    if text is None:
        return 1.0
    if text == "max":
        return AS_FAST_AS_CAN_BE
    with contextlib.suppress(ValueError):
        if len(text) <= 8 and text.isascii() and 0 < (speed := float(text)) <= SPEED_MAX:
            return speed
    raise InvalidRequest(f"speed must be a number up to {SPEED_MAX:g}, or max", code="invalid_speed")


class Replays:
    """The replays of a process, of which there are `at_most` at a time."""

    def __init__(self, reader: LogReader, *, limits: Limits, metrics: StreamMetrics, at_most: int) -> None:
        self._reader = reader
        self._limits = limits
        self._metrics = metrics
        self._at_most = at_most
        self._open: set[Replay] = set()
        self._draining = False

    @asynccontextmanager
    async def attach(self, run_id: str, *, cursor: Cursor, speed: float) -> AsyncIterator[Replay | NothingLeft]:
        """Inside the block the replay counts as open. Gives NothingLeft when the cursor is the run's end.

        Raises RunNotFound, RunStillOpen, TooManyReplays, CursorPastTail, CursorExpired, ArchiveUnavailable and
        DatabaseUnavailable, all before anything needs to be sent.
        """
        if len(self._open) >= self._at_most:
            raise TooManyReplays(self._at_most)
        replay = Replay(self._reader, limits=self._limits, metrics=self._metrics, speed=speed, run_id=run_id)
        self._open.add(replay)
        metrics = self._metrics
        try:
            position = await replay.start(cursor.seq)
            if cursor.seq == position.last_seq:
                yield NothingLeft(run_id, position.state.value, position.last_seq)
                return
            if self._draining:
                replay.ask_to_end()
            metrics.sse_connections.inc()
            metrics.sse_connects[ConnectKind.RESUME if cursor.resumed else ConnectKind.NEW].inc()
            try:
                yield replay
            finally:
                metrics.sse_connections.dec()
                metrics.sse_disconnects[replay.reason].inc()
        finally:
            self._open.discard(replay)

    def drain(self) -> None:
        """Ends all of them, resumable elsewhere, and those still to come."""
        self._draining = True
        for replay in self._open:
            replay.ask_to_end()


class Replay:
    """One replay, to be served as a Stream is: send `prelude` as the first of the body, then `run`."""

    def __init__(self, reader: LogReader, *, limits: Limits, metrics: StreamMetrics, speed: float, run_id: str) -> None:
        self.reason = DisconnectReason.CLIENT
        self._reader = reader
        self._limits = limits
        self._delivered = metrics.events_delivered[DeliveryPath.REPLAY]
        self._speed = speed
        self._run_id = run_id
        self._frames = Frames(run_id, source=Source.REPLAYER)
        self._asked_to_end = asyncio.Event()
        self._position: Position
        self._cursor = 0
        self._page: tuple[StoredEvent, ...] = ()
        self._outlet: Outlet
        self._wrote_at = 0.0
        self._rotate_at = inf

    async def start(self, cursor: int) -> Position:
        """Reads the first page, so that what cannot be replayed is refused before any header."""
        position = self._position = await self._reader.position(self._run_id)
        if not position.closed or position.published < position.last_seq:
            raise RunStillOpen(self._run_id, state=position.state.value)
        if cursor > position.last_seq:
            raise CursorPastTail(self._run_id, cursor=cursor, last_seq=position.last_seq)
        self._cursor = cursor
        if cursor < position.last_seq:
            self._page = await self._read()
        return position

    @property
    def prelude(self) -> bytes:
        return prelude(self._cursor, retry_ms=self._limits.retry_ms)

    def ask_to_end(self) -> None:
        """Ends it soon; the client goes on elsewhere from the event it has."""
        self._asked_to_end.set()

    def rotate_within(self, seconds: float) -> None:
        """Has it rotated no later: what let its client in does not hold for longer."""
        self._rotate_at = min(self._rotate_at, monotonic() + seconds)

    async def run(self, outlet: Outlet) -> DisconnectReason:
        """Writes the replay until it is over and returns why. Cancel it when the connection is lost."""
        self._outlet = outlet
        self._wrote_at = monotonic()
        try:
            self.reason = await self._until_over()
        except (ArchiveUnavailable, DatabaseFailed, CursorExpired):
            self.reason = DisconnectReason.ERROR
        except Exception:
            self.reason = DisconnectReason.ERROR
            raise
        if not outlet.closing() and self.reason is not DisconnectReason.CLIENT:
            self._write(self._last_words())
        return self.reason

    async def _until_over(self) -> DisconnectReason:
        began = monotonic()
        first_us = self._page[0].ts_us
        rotate_at = min(self._rotate_at, began + self._limits.max_age_s)
        while self._cursor < self._position.last_seq:
            events = self._page or await self._read()
            at = 0
            while at < len(events):
                due = began + (events[at].ts_us - first_us) / 1_000_000 / self._speed
                if (over := await self._wait_until(due, rotate_at=rotate_at)) is not None:
                    return over
                upto = at + 1
                now = monotonic() + _TICK_S
                while upto < len(events) and began + (events[upto].ts_us - first_us) / 1e6 / self._speed <= now:
                    upto += 1
                self._send(events[at:upto])
                at = upto
            self._page = ()
        return DisconnectReason.TERMINAL

    async def _wait_until(self, due: float, *, rotate_at: float) -> DisconnectReason | None:
        """Returns None when it is time and the client has room, else why the replay is over."""
        outlet, limits = self._outlet, self._limits
        slow_at: float | None = None
        while True:
            now = monotonic()
            full = outlet.buffered() > (limits.pause_bytes if slow_at is None else limits.resume_bytes)
            slow_at = (slow_at or now + limits.slow_s) if full else None
            if outlet.closing():
                return DisconnectReason.CLIENT
            if self._asked_to_end.is_set():
                return DisconnectReason.DRAIN
            if slow_at is not None and now >= slow_at:
                return DisconnectReason.SLOW
            if now >= rotate_at:
                return DisconnectReason.ROTATE
            if not full and now >= due:
                return None
            beat = self._wrote_at + limits.heartbeat_s
            if now >= beat and not full:
                self._write(HEARTBEAT)
                continue
            until = now + _LOOK_S if full else min(due, beat, rotate_at)
            await set_within(self._asked_to_end, until - now)

    async def _read(self) -> tuple[StoredEvent, ...]:
        position = self._position
        stretch = Stretch(self._run_id, position.run_day, self._cursor, position.last_seq)
        return await self._reader.events(stretch, limit=self._limits.page_events)

    def _send(self, events: tuple[StoredEvent, ...]) -> None:
        self._write(self._frames.of(events))
        self._cursor = events[-1].seq
        self._delivered.inc(len(events))

    def _last_words(self) -> bytes:
        if self.reason is DisconnectReason.TERMINAL:
            position = self._position
            return end_frame(self._run_id, state=position.state.value, last_seq=position.last_seq)
        return resumable_end(self.reason.value, retry_ms=jittered_retry_ms(self._limits.retry_ms))

    def _write(self, data: bytes) -> None:
        self._outlet.write(chunk(data) if self._outlet.chunked else data)
        self._wrote_at = monotonic()
