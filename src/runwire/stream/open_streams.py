"""The streams that are open in a process: counted, tended together, and ended together when it drains."""

from __future__ import annotations

import asyncio
from typing import Protocol

from runwire.clock import monotonic
from runwire.stream.reconnects import Reconnects
from runwire.telemetry.logs import LogEvent, get_logger
from runwire.telemetry.metrics import ConnectKind, DisconnectReason, StreamKind, StreamMetrics

_log = get_logger()


class OpenStream(Protocol):
    """A session, of one run or of many."""

    reason: DisconnectReason

    @property
    def run_id(self) -> str: ...
    @property
    def kind(self) -> StreamKind: ...
    @property
    def cursor(self) -> int: ...
    def rotate_within(self, seconds: float) -> None: ...
    def tend(self, now: float) -> float: ...
    def ask_to_end(self, reason: DisconnectReason, *, among: int = 1) -> None: ...


class OpenStreams:
    """`add` and `remove` are called once for each stream, whatever it is about."""

    def __init__(self, metrics: StreamMetrics) -> None:
        self._metrics = metrics
        self._open: dict[OpenStream, None] = {}
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._draining = False
        self._oldest_write_s = 0.0
        self._tended_at = monotonic()
        self._run_reconnects = Reconnects()
        self._client_reconnects = Reconnects()

    @property
    def sessions(self) -> tuple[OpenStream, ...]:
        """All of them."""
        return tuple(self._open)

    def add(self, session: OpenStream, *, resumed: bool) -> None:
        """Counts a session as open, and ends it at once while draining."""
        self._open[session] = None
        self._none_open.clear()
        self._metrics.sse_connections.inc()
        self._metrics.streams_open[session.kind].inc()
        self._metrics.sse_connects[ConnectKind.RESUME if resumed else ConnectKind.NEW].inc()
        _log.debug(LogEvent.STREAM_OPENED, run_id=session.run_id, cursor=session.cursor)
        if self._draining:
            session.ask_to_end(DisconnectReason.DRAIN, among=len(self._open))

    def remove(self, session: OpenStream) -> None:
        """Counts a session as closed."""
        del self._open[session]
        if not self._open:
            self._none_open.set()
        self._metrics.sse_connections.dec()
        self._metrics.streams_open[session.kind].dec()
        self._metrics.sse_disconnects[session.reason].inc()
        _log.debug(LogEvent.STREAM_CLOSED, run_id=session.run_id, reason=session.reason.value)

    def note_reconnect(self, run_id: str, client: str | None) -> None:
        """Counts a reconnect."""
        now = monotonic()
        self._run_reconnects.add(run_id, now=now)
        if client is not None:
            self._client_reconnects.add(client, now=now)

    async def drain(self, *, within_s: float | None = None) -> None:
        """Ends every stream, and those still to come; returns when all have ended, or after `within_s`, with a log
        line.
        """
        self._draining = True
        for session in self.sessions:
            session.ask_to_end(DisconnectReason.DRAIN, among=len(self._open))
        try:
            await asyncio.wait_for(self._none_open.wait(), timeout=within_s)
        except TimeoutError:
            _log.warning(LogEvent.SERVER_DRAINING, waiting_for="streams")

    def tend(self, now: float) -> None:
        """One step: heartbeats and rotation of every stream, and the gauges."""
        self._oldest_write_s = max([session.tend(now) for session in self._open], default=0.0)
        self._tended_at = now
        self._metrics.sse_run_reconnects_max.set(self._run_reconnects.most(now=now))
        self._metrics.sse_client_reconnects_max.set(self._client_reconnects.most(now=now))

    def write_age_s(self, now: float) -> float:
        """Seconds since the last write to the stream that waited longest. It grows when `tend` stops running."""
        return self._oldest_write_s + (now - self._tended_at) if self._open else 0.0
