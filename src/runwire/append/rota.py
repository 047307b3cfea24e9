"""Decides how many connections write: one, and more while many appends wait."""

from __future__ import annotations

import asyncio
from typing import Final

from runwire.append.queue import Queue
from runwire.clock import monotonic

WORTH_A_COMMIT: Final = 128
"""Waiting appends from which another connection writes, too. Fewer are done sooner if they share the next commit."""
PATIENCE_S: Final = 0.01
"""Longest wait in seconds of an append while a connection rests, since the other's commit may be slow."""


class Rota:
    """Coordinates `writers` that share a queue. A writer without work rests here until there is enough of it."""

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
        """How many appends a writer takes at once: its share of the waiting ones, and at least a batch worth a
        commit.
        """
        return min(self._batch_max, max(self._worth_a_commit, self._queue.ready // self._writers))

    async def rest(self) -> None:
        """Returns when this writer has work."""
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._resting.append(called)
        await called

    def call(self) -> None:
        """Wakes a writer after a submission, if none writes or if enough appends wait for another."""
        if not self._resting:
            return
        if len(self._resting) == self._writers or self._queue.ready >= self._worth_a_commit:
            self._wake()
        elif self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(PATIENCE_S, self._look)

    def close(self) -> None:
        """Wakes all writers, so that those without work leave."""
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
