"""The hubs of a process: one per run that has streams, opened by the first client, closed a while after the last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import inf
from types import TracebackType
from typing import Final, Self

from runwire.bus import BusReader
from runwire.clock import monotonic
from runwire.settings import Settings
from runwire.stream.catch_up import CatchUp
from runwire.stream.cursor import Cursor
from runwire.stream.deliveries import Deliveries
from runwire.stream.hub import End, Hub
from runwire.stream.limits import Limits
from runwire.stream.pacing import Pacing
from runwire.stream.reader import LogReader
from runwire.stream.reconnects import Reconnects
from runwire.stream.stream import Stream
from runwire.stream.turns import Turns
from runwire.stream.writes import Writes
from runwire.telemetry.logs import LogEvent, get_logger
from runwire.telemetry.metrics import ConnectKind, DisconnectReason, StreamMetrics
from runwire.telemetry.spans import NO_SPANS, Spans

LINGER_S: Final = 5.0
"""How long a hub outlives its last client: the reconnects of a flaky network find it warm."""
TEND_S: Final = 1.0
CHECK_S: Final = 0.1
SILENT_EVERY: Final = 10
"""Every so many checks those hubs are included that only heard nothing: about once a second."""

_log = get_logger()


@dataclass(frozen=True, slots=True)
class NothingLeft:
    """The client has every event of a closed run: 204, which stops a native EventSource."""

    run_id: str
    state: str
    last_seq: int


@dataclass(slots=True, eq=False)
class _Tenancy:
    """A hub, and who holds it."""

    hub: Hub
    opened: asyncio.Task[None]
    streams: dict[Stream, None] = field(default_factory=dict)
    idle_since: float = inf
    ring_bytes: int = 0
    """As last counted."""


class Hubs:
    """Enter it to start what hubs share: reads from PostgreSQL, heartbeats, rotation, the watch over full buffers."""

    def __init__(
        self, *, bus: BusReader, reader: LogReader, settings: Settings, metrics: StreamMetrics, spans: Spans = NO_SPANS
    ) -> None:
        self._bus = bus
        self._reader = reader
        self._metrics = metrics
        self._spans = spans
        self._limits = Limits.of(settings)
        self._catch_up = CatchUp(reader)
        self._pacing = Pacing(self._limits)
        self._turns = Turns(Writes(Deliveries(metrics)))
        self._tenancies: dict[str, _Tenancy] = {}
        self._idle: dict[_Tenancy, None] = {}
        """Those without streams, the one that is so for longest first."""
        self._let_go_of: list[_Tenancy] = []
        """Out of the register, and still to be closed."""
        self._ring_bytes = 0
        self._open: dict[Stream, None] = {}
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._draining = False
        self._checks = 0
        self._oldest_write_s = 0.0
        self._tended_at = monotonic()
        self._run_reconnects = Reconnects()
        self._client_reconnects = Reconnects()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._metrics.sse_write_age_max.set_function(lambda: self.write_age_s(monotonic()))
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            "catch up": self._catch_up.run,
            "pace": self._pacing.run,
            "check": lambda: _every(CHECK_S, self.check),
            "tend": lambda: _every(min(TEND_S, self._limits.heartbeat_s / 4), self.tend),
        }
        self._tasks = [
            asyncio.create_task(_kept_running(name, loop), name=f"streams: {name}") for name, loop in loops.items()
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for tenancy in (*self._tenancies.values(), *self._let_go_of):
                await self._close(tenancy)
        finally:
            self._turns.close()

    def attach(self, run_id: str, *, cursor: Cursor, client: str | None = None) -> Attachment:
        """Inside the block the run's hub is held, subscribed and located, and the stream counts as open.

        `client` tells one client from another, to count its reconnects; it is shown nowhere.
        Gives NothingLeft when the cursor is the end of a closed run. Raises RunNotFound, CursorPastTail, CursorExpired
        and DatabaseUnavailable, all before anything needs to be sent. While draining, the stream ends at once.
        """
        return Attachment(self, run_id, cursor, client)

    async def drain(self) -> None:
        """Ends every stream, resumable elsewhere, and those still to come; returns when all have ended."""
        self._draining = True
        for stream in tuple(self._open):
            stream.ask_to_end(DisconnectReason.DRAIN, among=len(self._open))
        await self._none_open.wait()

    def recheck(self) -> None:
        """The bus may have lost messages: every hub's stored tail is looked at soon, not only after its silence."""
        for tenancy in self._tenancies.values():
            tenancy.hub.check_at = 0.0

    def forget_history(self) -> None:
        """The log is another one: all streams end, resumable, and nothing is remembered of any run."""
        for tenancy in self._tenancies.values():
            tenancy.hub.lose()

    def write_age_s(self, now: float) -> float:
        """Seconds since the last write to the open stream that waited longest; grows when nobody looks any more."""
        return self._oldest_write_s + (now - self._tended_at) if self._open else 0.0

    # ------------------------------------------------------------------ steps

    async def tend(self, now: float) -> None:
        """One step, with `now` by the monotonic clock: heartbeats, rotation, gauges, hubs that nobody came back to."""
        self._oldest_write_s = max([stream.tick(now) for stream in self._open], default=0.0)
        self._tended_at = now
        self._metrics.sse_run_reconnects_max.set(self._run_reconnects.most(now=now))
        self._metrics.sse_client_reconnects_max.set(self._client_reconnects.most(now=now))
        for tenancy in tuple(self._idle):
            if now - tenancy.idle_since >= LINGER_S:
                await self._close(tenancy)
        for tenancy in tuple(self._tenancies.values()):
            self._count_ring(tenancy)
        self.keep_within_bounds()
        while self._let_go_of:
            await self._close(self._let_go_of.pop())

    def keep_within_bounds(self) -> None:
        """One step: lets go of runs nobody watches, the longest idle first, then of frames that followers have."""
        limits = self._limits
        while self._idle and (len(self._idle) > limits.idle_hubs or self._ring_bytes > limits.ring_bytes):
            tenancy = next(iter(self._idle))
            self._forget(tenancy)
            tenancy.hub.shed()
            self._let_go_of.append(tenancy)
        if self._ring_bytes > limits.ring_bytes:
            for tenancy in self._tenancies.values():
                tenancy.hub.shed()
                self._count_ring(tenancy)
                if self._ring_bytes <= limits.ring_bytes // 2:  # not again at once
                    return

    @property
    def ring_bytes(self) -> int:
        """Bytes of encoded events that are kept for clients to come, of all runs, as last counted."""
        return self._ring_bytes

    @property
    def idle_runs(self) -> int:
        """Runs without streams whose events are kept."""
        return len(self._idle)

    async def check(self, now: float) -> None:
        """One step: asks PostgreSQL about hubs that miss something or have not heard anything for long."""
        self._checks += 1
        hubs = [tenancy.hub for tenancy in self._tenancies.values()]
        await self._catch_up.check(hubs, now=now, silent=self._checks % SILENT_EVERY == 0)
        for tenancy in [tenancy for tenancy in self._tenancies.values() if tenancy.hub.lost]:
            for stream in tenancy.streams:
                stream.ask_to_end(DisconnectReason.ERROR)
            await self._close(tenancy)

    # ------------------------------------------------------------------ hubs come and go

    def _open_hub(self, run_id: str) -> _Tenancy:
        hub = Hub(
            run_id,
            bus=self._bus,
            reader=self._reader,
            metrics=self._metrics,
            limits=self._limits,
            on_behind=self._catch_up.ask,
            spans=self._spans,
            turns=self._turns,
        )

        async def opening() -> None:
            # A task of its own: the client that came first may leave, those that came after still want the hub.
            try:
                await hub.subscribe()
                await hub.locate()
            except BaseException:
                self._forget(tenancy)
                await hub.aclose()
                raise

        tenancy = _Tenancy(hub, asyncio.create_task(opening(), name=f"hub of {run_id}"))
        # Whoever waits for it hears of a failure; those who left before need not.
        tenancy.opened.add_done_callback(lambda opened: opened.cancelled() or opened.exception())
        self._tenancies[run_id] = tenancy
        return tenancy

    async def _close(self, tenancy: _Tenancy) -> None:
        if not tenancy.opened.done():
            tenancy.opened.cancel()
            await asyncio.gather(tenancy.opened, return_exceptions=True)
        # Out of the register first: who comes from here on gets a new hub.
        self._forget(tenancy)
        self._catch_up.forget(tenancy.hub)
        await tenancy.hub.aclose()

    def _forget(self, tenancy: _Tenancy) -> None:
        if self._tenancies.get(tenancy.hub.run_id) is tenancy:
            del self._tenancies[tenancy.hub.run_id]
        self._idle.pop(tenancy, None)
        self._ring_bytes -= tenancy.ring_bytes
        tenancy.ring_bytes = 0

    def _count_ring(self, tenancy: _Tenancy) -> None:
        if self._tenancies.get(tenancy.hub.run_id) is not tenancy:
            return
        counted, tenancy.ring_bytes = tenancy.ring_bytes, tenancy.hub.ring_bytes
        self._ring_bytes += tenancy.ring_bytes - counted

    # ------------------------------------------------------------------ streams come and go

    def hold(self, run_id: str, *, cursor: int) -> tuple[_Tenancy, Stream]:
        """A stream of the run at `cursor`, for which the run's hub is kept. For Attachment."""
        tenancy = self._tenancies.get(run_id) or self._open_hub(run_id)
        stream = Stream(
            tenancy.hub,
            cursor=cursor,
            pacing=self._pacing,
            metrics=self._metrics,
            limits=self._limits,
            spans=self._spans,
        )
        tenancy.streams[stream] = None
        self._idle.pop(tenancy, None)
        return tenancy, stream

    def left(self, tenancy: _Tenancy, stream: Stream) -> None:
        """Gives up what `hold` gave. For Attachment."""
        del tenancy.streams[stream]
        if tenancy.streams:
            return
        tenancy.idle_since = monotonic()
        if self._tenancies.get(tenancy.hub.run_id) is tenancy:  # else it could not be opened
            self._idle[tenancy] = None
            tenancy.hub.rest()
            self._count_ring(tenancy)
            self.keep_within_bounds()

    async def admit(self, tenancy: _Tenancy, stream: Stream) -> NothingLeft | None:
        """Brings the stream to its first piece, or says that there is nothing left for it. For Attachment."""
        hub = tenancy.hub
        await asyncio.shield(tenancy.opened)
        with self._spans.subscribe(hub.traceparent, run_id=hub.run_id):
            first = await hub.admit(stream.cursor)
        self._count_ring(tenancy)
        self.keep_within_bounds()
        if isinstance(first, End):
            return NothingLeft(hub.run_id, first.state, first.last_seq)
        stream.start_with(first)
        return None

    def opened(self, stream: Stream, *, client: str | None, resumed: bool) -> None:
        """Counts a stream, and has it end at once while draining. For Attachment."""
        if resumed:
            self._note_reconnect(stream.run_id, client)
        self._open[stream] = None
        self._none_open.clear()
        self._metrics.sse_connections.inc()
        self._metrics.sse_connects[ConnectKind.RESUME if resumed else ConnectKind.NEW].inc()
        _log.debug(LogEvent.STREAM_OPENED, run_id=stream.run_id, cursor=stream.cursor)
        if self._draining:
            stream.ask_to_end(DisconnectReason.DRAIN, among=len(self._open))

    def closed(self, stream: Stream) -> None:
        del self._open[stream]
        if not self._open:
            self._none_open.set()
        self._metrics.sse_connections.dec()
        self._metrics.sse_disconnects[stream.reason].inc()
        _log.debug(LogEvent.STREAM_CLOSED, run_id=stream.run_id, reason=stream.reason.value)

    def _note_reconnect(self, run_id: str, client: str | None) -> None:
        now = monotonic()
        self._run_reconnects.add(run_id, now=now)
        if client is not None:
            self._client_reconnects.add(client, now=now)


class Attachment:
    """A client at its hub, from its coming to its going: what `Hubs.attach` gives, to be entered once.

    Written by hand because there is one for every open stream: a generator's frame would be a KiB more of each.
    """

    __slots__ = ("_client", "_counted", "_cursor", "_hubs", "_run_id", "_stream", "_tenancy")

    def __init__(self, hubs: Hubs, run_id: str, cursor: Cursor, client: str | None) -> None:
        self._hubs = hubs
        self._run_id = run_id
        self._cursor = cursor
        self._client = client
        self._counted = False

    async def __aenter__(self) -> Stream | NothingLeft:
        self._tenancy, self._stream = self._hubs.hold(self._run_id, cursor=self._cursor.seq)
        try:
            left = await self._hubs.admit(self._tenancy, self._stream)
            if left is None:
                self._hubs.opened(self._stream, client=self._client, resumed=self._cursor.resumed)
                self._client, self._counted = None, True
        except BaseException:
            self._let_go()
            raise
        return left or self._stream

    async def __aexit__(self, *_: object) -> None:
        if self._counted:
            self._hubs.closed(self._stream)
        self._let_go()

    def _let_go(self) -> None:
        self._hubs.left(self._tenancy, self._stream)


async def _every(period_s: float, step: Callable[[float], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(period_s)
        await step(monotonic())


async def _kept_running(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """A defect in one of the shared loops is logged and costs a second, not every stream of the process."""
    while True:
        try:
            await loop()
        except Exception:  # noqa: BLE001  # see above
            _log.exception(LogEvent.TASK_FAILED, task=f"streams: {name}")
            await asyncio.sleep(1.0)
