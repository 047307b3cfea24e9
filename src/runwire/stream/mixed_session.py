"""One client's mixed stream: its loop, from the first frame to the last words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

from runwire.clock import JITTER, monotonic, wait_until_set, wall_us
from runwire.content.part_metrics import PartMetrics
from runwire.errors import ArchiveUnavailable, ArtifactErased, ContentUnavailable, CursorExpired, DatabaseFailed
from runwire.stream.limits import StreamLimits
from runwire.stream.mixed import MixedNews, MixedReader, Names, Step
from runwire.stream.mixed_cursor import MixedCursor
from runwire.stream.sse import HEARTBEAT, end_frame, jittered_retry_ms, resumable_end
from runwire.stream.streams import NothingLeft, Streams
from runwire.telemetry.metrics import DeliveryPath, DisconnectReason, StreamKind, StreamMetrics

Write: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Sends bytes, and returns when the connection has room again."""


class MixedStreams:
    """Mixed streams of a process. They count, rotate and drain with its other streams."""

    def __init__(
        self, streams: Streams, reader: MixedReader, news: MixedNews, *, metrics: StreamMetrics, parts: PartMetrics
    ) -> None:
        self._streams = streams
        self._reader = reader
        self._news = news
        self._metrics = metrics
        self._parts = parts

    @asynccontextmanager
    async def attach(
        self, run_id: str, *, cursor: MixedCursor, names: Names, resumed: bool, client: str
    ) -> AsyncIterator[MixedSession | NothingLeft]:
        """As `Streams.attach`. Raises InvalidRequest for a cursor past the end of a part, too."""
        async with self._news.of(run_id) as news:
            first = await self._reader.step(run_id, cursor, names=names)
            if first.end is not None and not first.frames:
                yield NothingLeft(run_id, first.end.state, first.end.last_seq)
                return
            session = MixedSession(
                run_id, cursor, first, names=names, news=news, reader=self._reader, limits=self._streams.limits,
                metrics=self._metrics, parts=self._parts,
            )  # fmt: skip
            if resumed:
                self._streams.note_reconnect(run_id, client)
            self._streams.opened(session, resumed=resumed)
            try:
                yield session
            finally:
                self._streams.closed(session)


class MixedSession:
    """One client's mixed stream, from `MixedStreams.attach`. Send `prelude` first, then `run`."""

    def __init__(
        self,
        run_id: str,
        cursor: MixedCursor,
        first: Step,
        *,
        names: Names,
        news: asyncio.Event,
        reader: MixedReader,
        limits: StreamLimits,
        metrics: StreamMetrics,
        parts: PartMetrics,
    ) -> None:
        self.run_id = run_id
        self.reason = DisconnectReason.CLIENT
        self._cursor = cursor
        self._first: Step | None = first
        self._names = names
        self._news = news
        self._reader = reader
        self._limits = limits
        self._metrics = metrics
        self._parts = parts
        self._asked: DisconnectReason | None = None
        self._among = 1
        self._wrote_at = monotonic()
        self._rotate_at = self._wrote_at + limits.max_age_s * JITTER.uniform(0.9, 1.1)

    @property
    def kind(self) -> StreamKind:
        return StreamKind.RUN

    @property
    def cursor(self) -> int:
        """The last seq written."""
        return self._cursor.seq

    @property
    def prelude(self) -> bytes:
        """`retry:`, and the client's own cursor back."""
        return f"retry: {self._limits.retry_ms}\n\nid: {self._cursor.text}\n\n".encode()

    def rotate_within(self, seconds: float) -> None:
        """Rotates the stream no later: the client's permission does not hold for longer."""
        self._rotate_at = min(self._rotate_at, monotonic() + seconds)
        self._news.set()

    def ask_to_end(self, reason: DisconnectReason, *, among: int = 1) -> None:
        """Ends the stream soon, as one of `among` that are ended together."""
        self._asked = reason
        self._among = among
        self._news.set()

    def tend(self, now: float) -> float:
        """Seconds since its last write."""
        return now - self._wrote_at

    async def run(self, write: Write, *, closing: Callable[[], bool]) -> None:
        """Writes the stream until it is over. `closing`: the client has left.

        Raises TimeoutError for a client that does not read, and ConnectionError for one that has left.
        """
        try:
            self.reason = await self._until_over(write, closing)
        except TimeoutError:
            self.reason = DisconnectReason.SLOW
            raise
        except (ArchiveUnavailable, ArtifactErased, ContentUnavailable, CursorExpired, DatabaseFailed):
            self.reason = DisconnectReason.ERROR
        if self.reason not in (DisconnectReason.TERMINAL, DisconnectReason.CLIENT):
            retry_ms = jittered_retry_ms(self._limits.retry_ms, streams=self._among)
            await self._send(write, resumable_end(self.reason.value, retry_ms=retry_ms))

    async def _until_over(self, write: Write, closing: Callable[[], bool]) -> DisconnectReason:
        waited = False
        while True:
            self._news.clear()
            if self._asked is not None:
                return self._asked
            if closing():
                return DisconnectReason.CLIENT
            if monotonic() >= self._rotate_at:
                return DisconnectReason.ROTATE
            step = self._first or await self._reader.step(self.run_id, self._cursor, names=self._names)
            self._first = None
            if step.frames:
                await self._send(write, step.frames)
                self._cursor = step.cursor
                path = DeliveryPath.LIVE if waited else DeliveryPath.BACKFILL
                self._metrics.events_delivered[path].inc(step.events)
                if waited and step.written_us is not None:
                    self._parts.lag.observe(max(wall_us() - step.written_us, 0) / 1e6)
            if step.end is not None:
                end = end_frame(self.run_id, state=step.end.state, last_seq=step.end.last_seq)
                await self._send(write, end)
                return DisconnectReason.TERMINAL
            if not step.frames:
                waited = True
                await self._wait(write)

    async def _wait(self, write: Write) -> None:
        due = self._wrote_at + self._limits.heartbeat_s
        now = monotonic()
        if (
            not await wait_until_set(self._news, within_s=max(min(due, self._rotate_at) - now, 0))
            and monotonic() >= due
        ):
            await self._send(write, HEARTBEAT)

    async def _send(self, write: Write, data: bytes) -> None:
        async with asyncio.timeout(self._limits.slow_s):
            await write(data)
        self._wrote_at = monotonic()
