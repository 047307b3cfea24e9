"""The stream stage of a process: every open stream, live or replayed, and the loops they share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from runwire.bus import BusReader
from runwire.clock import monotonic, wall_us
from runwire.errors import TooManyReplays
from runwire.stream.catch_up import CatchUp
from runwire.stream.cursor import Cursor
from runwire.stream.fanout import Deliveries, Pacing, Scheduler, Sender, open_sender
from runwire.stream.limits import StreamLimits
from runwire.stream.log import LogReader
from runwire.stream.loops import every, kept_running
from runwire.stream.open_streams import OpenStream, OpenStreams
from runwire.stream.replay import Replay
from runwire.stream.session import Session, Source
from runwire.stream.settings import StreamSettings
from runwire.stream.tail import End
from runwire.stream.watch import Watch, WatchParts
from runwire.stream.watches import Watches
from runwire.telemetry.metrics import StreamMetrics
from runwire.telemetry.spans import NO_SPANS, Spans

TEND_S: Final = 1.0
CHECK_S: Final = 0.1
SILENT_EVERY: Final = 10
"""Every so many checks include runs that only heard nothing: about once a second."""


@dataclass(frozen=True, slots=True)
class NothingLeft:
    """The client has every event of a closed run: 204, which stops a native EventSource."""

    run_id: str
    state: str
    last_seq: int


@dataclass(frozen=True, slots=True)
class Shared:
    """Everything that the streams of a process share, whatever they are about."""

    watches: Watches
    scheduler: Scheduler
    pacing: Pacing
    metrics: StreamMetrics
    limits: StreamLimits
    now_us: Callable[[], int]
    """The clock that events' times are of."""


class Streams:
    """Enter it to start what streams share: reads from PostgreSQL, heartbeats, rotation, the watch over full buffers.

    The steps of its loops (`tend`, `check`, `catch_up`, `pace`) can be called by themselves.
    """

    def __init__(
        self,
        *,
        bus: BusReader,
        reader: LogReader,
        settings: StreamSettings,
        metrics: StreamMetrics,
        spans: Spans = NO_SPANS,
        now_us: Callable[[], int] = wall_us,
        limits: StreamLimits | None = None,
        sender: Sender | None = None,
        slots_a_tick: int | None = None,
    ) -> None:
        """`now_us`: PostgreSQL's clock, by which lags are observed.

        The last three are for tests and benchmarks: they follow from the settings and the machine unless given.
        """
        self._reader = reader
        self._metrics = metrics
        self._spans = spans
        self._now_us = now_us
        self._limits = limits or StreamLimits.of(settings)
        self._replays_max = settings.replays_max
        self._catch_up = CatchUp(reader)
        self._pacing = Pacing(self._limits)
        deliveries = Deliveries(metrics, now_us=now_us)
        self._scheduler = Scheduler(sender or open_sender(), deliveries, slots_a_tick=slots_a_tick)
        self._watches = Watches(
            WatchParts(
                bus=bus,
                reader=reader,
                catch_up=self._catch_up,
                scheduler=self._scheduler,
                limits=self._limits,
                metrics=metrics,
                spans=spans,
            )
        )
        self._replays = 0
        self._open = OpenStreams(metrics)
        self._checks = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._metrics.sse_write_age_max.set_function(lambda: self._open.write_age_s(monotonic()))
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            "catch up": self._catch_up.run,
            "pace": self._pacing.run,
            "check": lambda: every(CHECK_S, self.check),
            "tend": lambda: every(min(TEND_S, self._limits.heartbeat_s / 4), self.tend),
        }
        self._tasks = [
            asyncio.create_task(kept_running(name, loop), name=f"streams: {name}") for name, loop in loops.items()
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._watches.aclose()
        finally:
            self._scheduler.close()

    # ------------------------------------------------------------------ streams come and go

    def attach(self, run_id: str, *, cursor: Cursor, client: str | None = None) -> Attachment:
        """Inside the block the run is watched and the session counts as open. Gives NothingLeft at a closed run's end.

        `client` tells one client from another, to count its reconnects; it is shown nowhere.
        Raises RunNotFound, CursorPastTail, CursorExpired and DatabaseUnavailable, all before anything needs to be sent.
        While draining, the stream ends at once.
        """
        return Attachment(self, run_id, cursor, client)

    @asynccontextmanager
    async def replay(self, run_id: str, *, cursor: Cursor, speed: float) -> AsyncIterator[Session | NothingLeft]:
        """The same for a closed run that is sent once more. The setting `replays_max` bounds the open ones.

        Raises RunNotFound, RunStillOpen, TooManyReplays, CursorPastTail, CursorExpired, ArchiveUnavailable and
        DatabaseUnavailable, all before anything needs to be sent.
        """
        if self._replays >= self._replays_max:
            raise TooManyReplays(self._replays_max)
        self._replays += 1
        try:
            source = await Replay.open(
                self._reader, run_id, after=cursor.seq, speed=speed, page_events=self._limits.page_events
            )
            if (end := source.ended_for(cursor.seq)) is not None:
                yield NothingLeft(run_id, end.state, end.last_seq)
                return
            session = self._session(source, cursor=cursor.seq)
            self.opened(session, resumed=cursor.resumed)
            try:
                yield session
            finally:
                self.closed(session)
        finally:
            self._replays -= 1

    def hold(self, run_id: str, *, cursor: int) -> tuple[Watch, Session]:
        """A session at `cursor`, for which the run is watched. For Attachment."""
        watch = self._watches.open(run_id)
        session = self._session(watch, cursor=cursor)
        self._watches.hold(watch, session)
        return watch, session

    def leave(self, watch: Watch, session: Session) -> None:
        """Gives up what `hold` gave. For Attachment."""
        self._watches.leave(watch, session)

    def _session(self, source: Source, *, cursor: int) -> Session:
        return Session(source, cursor=cursor, pacing=self._pacing, metrics=self._metrics, limits=self._limits)

    async def admit(self, watch: Watch, session: Session) -> NothingLeft | None:
        """Brings the session to its first piece, or says that nothing is left for it. For Attachment."""
        await asyncio.shield(watch.opened)
        with self._spans.subscribe(watch.traceparent, run_id=watch.run_id):
            first = await watch.admit(session.cursor)
        self._watches.count(watch)
        if isinstance(first, End):
            return NothingLeft(watch.run_id, first.state, first.last_seq)
        session.start_with(first)
        return None

    def opened(self, session: OpenStream, *, resumed: bool) -> None:
        """Counts a session as open, and ends it at once while draining. For Attachment."""
        self._open.add(session, resumed=resumed)

    def closed(self, session: OpenStream) -> None:
        """Counts a session as closed. For Attachment."""
        self._open.remove(session)

    @property
    def shared(self) -> Shared:
        """Everything that streams of many runs, and those with parts, share with those of one run."""
        return Shared(self._watches, self._scheduler, self._pacing, self._metrics, self._limits, self._now_us)

    def note_reconnect(self, run_id: str, client: str | None) -> None:
        """Counts a reconnect. For Attachment."""
        self._open.note_reconnect(run_id, client)

    async def drain(self, *, within_s: float | None = None) -> None:
        """Ends every stream, resumable elsewhere, and those still to come; returns when all have ended.

        Gives up after `within_s`, and logs it.
        """
        await self._open.drain(within_s=within_s)

    # ------------------------------------------------------------------ what others may see

    @property
    def sessions(self) -> tuple[OpenStream, ...]:
        """The open ones."""
        return self._open.sessions

    def watch_of(self, run_id: str) -> Watch | None:
        """The run's watch, when it is watched."""
        return self._watches.get(run_id)

    @property
    def limits(self) -> StreamLimits:
        """The bounds of every stream."""
        return self._limits

    @property
    def ring_bytes(self) -> int:
        """Bytes of encoded events that are kept for clients to come, of all runs, as last counted."""
        return self._watches.ring_bytes

    @property
    def idle_runs(self) -> int:
        """Runs without streams that are still watched."""
        return self._watches.idle_runs

    def write_age_s(self, now: float) -> float:
        """Seconds since the last write to the open stream that waited longest. It grows when `tend` stops running."""
        return self._open.write_age_s(now)

    async def queue_empty(self) -> None:
        """Returns when no run waits for a slot to write in; the last writes may still be under way."""
        await self._scheduler.queue_empty()

    def recheck(self) -> None:
        """Has every run's position read soon, not only after silence: the bus may have lost messages."""
        self._watches.recheck()

    def forget_history(self) -> None:
        """Ends all streams, resumable, and forgets every run: the log is another one."""
        self._watches.lose_all()

    # ------------------------------------------------------------------ steps

    async def tend(self, now: float) -> None:
        """One step, with `now` by the monotonic clock: heartbeats, rotation, gauges, watches without a session."""
        self._open.tend(now)
        await self._watches.tend(now)

    def keep_within_bounds(self) -> None:
        """One step: lets go of what is kept beyond the bounds."""
        self._watches.keep_within_bounds()

    async def check(self, now: float) -> None:
        """One step: asks PostgreSQL about runs that lack something or have not heard anything for long."""
        self._checks += 1
        await self._watches.check(now, silent=self._checks % SILENT_EVERY == 0)

    async def catch_up(self) -> int:
        """One step: reads for the runs that asked first. Returns the number of runs."""
        return await self._catch_up.read()

    def pace(self, now: float) -> int:
        """One step: looks after full buffers. Returns how many sessions still wait for their clients."""
        return self._pacing.look(now)


class Attachment:
    """A client at its run, from its arrival until it leaves. `Streams.attach` gives it; enter it once.

    Written by hand because there is one for every open stream: a generator's frame would be a KiB more of each.
    """

    __slots__ = ("_client", "_counted", "_cursor", "_run_id", "_session", "_streams", "_watch")

    def __init__(self, streams: Streams, run_id: str, cursor: Cursor, client: str | None) -> None:
        self._streams = streams
        self._run_id = run_id
        self._cursor = cursor
        self._client = client
        self._counted = False

    async def __aenter__(self) -> Session | NothingLeft:
        streams = self._streams
        self._watch, self._session = watch, session = streams.hold(self._run_id, cursor=self._cursor.seq)
        try:
            left = await streams.admit(watch, session)
            if left is None:
                if self._cursor.resumed:
                    streams.note_reconnect(self._run_id, self._client)
                streams.opened(session, resumed=self._cursor.resumed)
                self._client, self._counted = None, True
        except BaseException:
            streams.leave(watch, session)
            raise
        return left or session

    async def __aexit__(self, *_: object) -> None:
        if self._counted:
            self._streams.closed(self._session)
        self._streams.leave(self._watch, self._session)
