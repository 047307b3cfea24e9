"""How late the event loop wakes a timer: the first thing to look at when every lag grows at once."""

from __future__ import annotations

import asyncio

from runwire.clock import monotonic
from runwire.telemetry.histogram import Histogram


class LoopLagProbe:
    """Observes the running loop's lag into `lag` (seconds), once every `every_s`."""

    def __init__(self, lag: Histogram, *, every_s: float = 0.5) -> None:
        self._lag = lag
        self._every_s = every_s

    async def measure(self) -> float:
        """One step: sleeps `every_s` and returns, having observed it, how many seconds late it woke."""
        due = monotonic() + self._every_s
        await asyncio.sleep(self._every_s)
        late_s = max(monotonic() - due, 0.0)
        self._lag.observe(late_s)
        return late_s

    async def run(self) -> None:
        """Measures until cancelled."""
        while True:
            await self.measure()
