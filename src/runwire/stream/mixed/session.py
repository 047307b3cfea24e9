"""One client's mixed stream, and those of a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self

from runwire.content.part_feed import PartFeed
from runwire.content.part_metrics import PartMetrics
from runwire.content.parts import PartReader
from runwire.stream.log import LogReader
from runwire.stream.loops import every, kept_running
from runwire.stream.mixed.catch_up import PartCatchUp
from runwire.stream.mixed.cursor import MixedCursor
from runwire.stream.mixed.reader import MixedReader, Names
from runwire.stream.mixed.slots import PartSlots
from runwire.stream.mixed.source import MixedSource
from runwire.stream.mixed.watch import MixedParts, MixedWatch
from runwire.stream.session import Session
from runwire.stream.sse import prelude_of
from runwire.stream.streams import NothingLeft, Shared, Streams
from runwire.telemetry.metrics import DisconnectReason

LOOK_S: Final = 1.0
"""Seconds after which bytes that nobody told of are found."""


class MixedSession(Session):
    """One client's mixed stream, from `MixedStreams.attach`. Send `prelude` first, then `run`."""

    __slots__ = ("_began_at",)

    def __init__(self, source: MixedSource, cursor: MixedCursor, shared: Shared) -> None:
        super().__init__(source, cursor=cursor.seq, pacing=shared.pacing, metrics=shared.metrics, limits=shared.limits)
        self._began_at = cursor.text

    @property
    def prelude(self) -> bytes:
        return prelude_of(self._began_at, retry_ms=self._limits.retry_ms)

    def tend(self, now: float) -> float:
        """Also rotates a client that reads backlog: it may be a key that no longer holds."""
        if now >= self._rotate_at:
            self.ask_to_end(DisconnectReason.ROTATE)
        return super().tend(now)


class MixedStreams:
    """Mixed streams of a process. They count, rotate and drain with its other streams.

    Enter it to start what they share. The steps of its loops (`look`, `catch_up.read`) can be called by themselves.
    """

    def __init__(
        self, streams: Streams, reader: LogReader, parts: PartReader, feed: PartFeed, *, metrics: PartMetrics
    ) -> None:
        self.catch_up = PartCatchUp(parts)
        self._streams = streams
        self._shared = shared = streams.shared
        self._reader = MixedReader(reader, parts, now_us=shared.now_us)
        self._metrics = metrics
        self._parts = MixedParts(
            watches=shared.watches,
            feed=feed,
            reader=self._reader,
            catch_up=self.catch_up,
            slots=PartSlots(shared.scheduler, metrics=shared.metrics, parts=metrics, now_us=shared.now_us),
            limits=shared.limits,
            now_us=shared.now_us,
        )
        self._watches: dict[tuple[str, Names], MixedWatch] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(kept_running("parts", self.catch_up.run), name="streams: parts"),
            asyncio.create_task(
                kept_running("look at parts", lambda: every(LOOK_S, self.look)), name="streams: look at parts"
            ),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def look(self, _now: float) -> None:
        """One step: has the bytes read of which news were lost."""
        for watch in self._watches.values():
            watch.look()

    @asynccontextmanager
    async def attach(
        self, run_id: str, *, cursor: MixedCursor, names: Names, resumed: bool, client: str
    ) -> AsyncIterator[MixedSession | NothingLeft]:
        """As `Streams.attach`. Raises InvalidRequest for a cursor past the end of a part, too."""
        key = (run_id, names)
        watch = self._watches.get(key)
        if watch is None or watch.lost:
            watch = self._watches[key] = MixedWatch(run_id, names, self._parts)
        shared = self._shared
        source = MixedSource(
            watch, cursor, reader=self._reader, limits=shared.limits, parts=self._metrics, now_us=shared.now_us
        )
        session = MixedSession(source, cursor, shared)
        source.client = session
        watch.clients[source] = None
        try:
            await watch.opened()
            first = await source.piece_after(session.cursor)
            if first is None and (end := source.ended_for(session.cursor)) is not None:
                yield NothingLeft(run_id, end.state, end.last_seq)
                return
            session.start_with(first)
            if resumed:
                self._streams.note_reconnect(run_id, client)
            self._streams.opened(session, resumed=resumed)
            try:
                yield session
            finally:
                self._streams.closed(session)
        finally:
            source.leave(session)
            del source.client, watch.clients[source]  # no cycle: nobody has to look for it
            if not watch.clients:
                if self._watches.get(key) is watch:
                    del self._watches[key]
                await watch.aclose()
