"""Clients whose buffers are full. One timer watches all of them, so thousands cost one timer and no memory."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from runwire.clock import monotonic
from runwire.stream.fanout.outlet import Outlet
from runwire.stream.limits import StreamLimits
from runwire.telemetry.metrics import DisconnectReason

LOOK_S: Final = 0.02


class Paced(Protocol):
    """A session that waits for its client."""

    @property
    def outlet(self) -> Outlet: ...

    def wake(self) -> None: ...

    def ask_to_end(self, reason: DisconnectReason) -> None: ...


class Pacing:
    """Wakes a waiting session when its client has taken most of its buffer; ends one whose client takes too long."""

    def __init__(self, limits: StreamLimits) -> None:
        self._limits = limits
        self._waiting: dict[Paced, float] = {}
        self._some = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Sessions that wait for their clients."""
        return len(self._waiting)

    def wait_for(self, session: Paced) -> None:
        """Starts the clock of a session, which may wait for `slow_s`."""
        self._waiting[session] = monotonic() + self._limits.slow_s
        self._some.set()

    def forget(self, session: Paced) -> None:
        self._waiting.pop(session, None)

    def look(self, now: float) -> int:
        """One step; returns how many sessions still wait."""
        for session, slow_at in tuple(self._waiting.items()):
            outlet = session.outlet
            if outlet.closing() or outlet.buffered() <= self._limits.resume_bytes:
                del self._waiting[session]
                session.wake()
            elif now >= slow_at:
                del self._waiting[session]
                session.ask_to_end(DisconnectReason.SLOW)
        return len(self._waiting)

    async def run(self) -> None:
        """Looks every 20 ms while some session waits, until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(LOOK_S)
            if self.look(monotonic()) == 0:
                self._some.clear()
