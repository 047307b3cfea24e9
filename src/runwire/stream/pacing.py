"""Clients whose buffers are full: watched together, so that thousands of them cost one timer and no memory."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from runwire.clock import monotonic
from runwire.stream.limits import Limits
from runwire.stream.outlet import Outlet
from runwire.telemetry.metrics import DisconnectReason

LOOK_S: Final = 0.02


class Paced(Protocol):
    """A stream that waits for its client."""

    @property
    def outlet(self) -> Outlet: ...

    def wake(self) -> None: ...

    def ask_to_end(self, reason: DisconnectReason) -> None: ...


class Pacing:
    """Wakes a waiting stream when its client has taken most of its buffer; ends one whose client takes too long."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: dict[Paced, float] = {}
        self._some = asyncio.Event()

    def wait_for(self, stream: Paced) -> None:
        """Starts the clock of a stream; it may stay here for `slow_s`."""
        self._waiting[stream] = monotonic() + self._limits.slow_s
        self._some.set()

    def forget(self, stream: Paced) -> None:
        self._waiting.pop(stream, None)

    def look(self, now: float) -> int:
        """One round; how many streams are still waiting."""
        for stream, slow_at in tuple(self._waiting.items()):
            outlet = stream.outlet
            if outlet.closing() or outlet.buffered() <= self._limits.resume_bytes:
                del self._waiting[stream]
                stream.wake()
            elif now >= slow_at:
                del self._waiting[stream]
                stream.ask_to_end(DisconnectReason.SLOW)
        return len(self._waiting)

    async def run(self) -> None:
        """Looks every 20 ms while there is somebody to look at; until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(LOOK_S)
            if self.look(monotonic()) == 0:
                self._some.clear()
