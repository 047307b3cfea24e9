"""How many connections write: one, and more of them while many appends wait."""

from __future__ import annotations

import asyncio
from typing import Final

from runwire.append.queue import Queue
from runwire.clock import monotonic

WORTH_A_COMMIT: Final = 128
"""So many appends that wait have another connection write, too: fewer are done sooner if they share the next commit."""
PATIENCE_S: Final = 0.01
"""Nor does an append wait for longer than this while a connection rests: another's commit may take its time."""


class Rota:
    """Of `writers` that share a queue: who has nothing to take rests here until there is something worth it."""

    def __init__(self, queue: Queue, *, writers: int, batch_max: int) -> None:
        self.closing = False
        self._queue = queue
        self._writers = writers
        self._batch_max = batch_max
        self._worth_a_commit = min(WORTH_A_COMMIT, batch_max)
        self._resting: list[asyncio.Future[None]] = []
        self._looking: asyncio.TimerHandle | None = None

    @property
    def share(self) -> int:
        """How many appends a writer takes at once: its part of those that wait, and no fewer than are worth it."""
        return min(self._batch_max, max(self._worth_a_commit, self._queue.ready // self._writers))

    async def rest(self) -> None:
        """Returns when this writer is wanted."""
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._resting.append(called)
        await called

    def call(self) -> None:
        """Something was put into the queue: has a writer take it, if none writes or if it is worth another."""
        if not self._resting:
            return
        if len(self._resting) == self._writers or self._queue.ready >= self._worth_a_commit:
            self._wake()
        elif self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(PATIENCE_S, self._look)

    def close(self) -> None:
        """Wakes everybody: who finds nothing to take leaves."""
        self.closing = True
        while self._resting:
            self._wake()
        if self._looking is not None:
            self._looking.cancel()

    def _look(self) -> None:
        self._looking = None
        asked_at = self._queue.asked_at
        if asked_at is None or not self._resting:
            return
        left_s = asked_at + PATIENCE_S - monotonic()
        if left_s > 0:
            self._looking = asyncio.get_running_loop().call_later(left_s, self._look)
        else:
            self._wake()

    def _wake(self) -> None:
        called = self._resting.pop()
        if not called.done():
            called.set_result(None)
