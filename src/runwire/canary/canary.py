"""The canary's loop: a round, its metrics, a pause."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from runwire.canary.metrics import CanaryMetrics
from runwire.canary.rounds import Round, given_up, walked
from runwire.client import Client
from runwire.clock import monotonic

LEFT_MAX: Final = 100
"""Most runs of failed rounds that are still to be cancelled. Others end by themselves once a worker has them."""
PAUSE_MIN_S: Final = 0.1


class Canary:
    """`round` is its step, `run` its loop."""

    def __init__(
        self, client: Client, metrics: CanaryMetrics, *, every_s: float, timeout_s: float, cancel_every: int
    ) -> None:
        """A round begins `every_s` after the one before it, and each `cancel_every`th cancels its run; 0: none does."""
        self._client = client
        self._metrics = metrics
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._cancel_every = cancel_every
        self._rounds = 0
        self._left: deque[str] = deque(maxlen=LEFT_MAX)

    async def round(self) -> Round:
        """Walks a round and counts it."""
        self._rounds += 1
        cancels = self._cancel_every > 0 and self._rounds % self._cancel_every == 0
        ended = await walked(self._client, timeout_s=self._timeout_s, cancels=cancels)
        self._metrics.count(ended)
        if ended.good:
            await self._tidy()
        else:
            self._left.append(ended.run_id)
        return ended

    async def run(self, told: Callable[[Round], None]) -> None:
        """Walks rounds until cancelled. `told` is called after each."""
        while True:
            began = monotonic()
            told(await self.round())
            await asyncio.sleep(max(self._every_s - (monotonic() - began), PAUSE_MIN_S))

    async def _tidy(self) -> None:
        """Cancels what failed rounds have left open: the service was away then."""
        while self._left and await given_up(self._client, self._left[0], within_s=self._timeout_s):
            self._left.popleft()
