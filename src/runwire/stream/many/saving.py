"""The positions of a stream of many runs, with the checkpoints that keep its ids short."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import Counter

from runwire.clock import monotonic
from runwire.errors import DatabaseFailed
from runwire.stream.many.checkpoints import GROWN, ROSTER_MORE_S, Checkpoint, Checkpoints
from runwire.stream.many.positions import ZERO, Positions

STEPS_MAX: Final = 11
"""Runs that an id mentions before a checkpoint is waited for: with two or three characters each, a fifth of a frame."""
STEPS_SOON: Final = 7
"""Runs from which on a checkpoint is stored without anybody waiting for it."""
JOINED_MIN: Final = 64
JOINED_SHARE: Final = 8
"""A checkpoint has the whole list again when so many runs have joined, and more than that share of it."""
PATIENCE_S: Final = 1.0
"""For a checkpoint. Then ids get longer instead, because events must not wait for PostgreSQL."""


class SavedPositions:
    """Positions that are made durable in time. An id mentions the runs that moved on since the last checkpoint."""

    def __init__(
        self,
        positions: Positions,
        checkpoints: Checkpoints,
        *,
        tenant: str,
        digest: bytes,
        since_us: int,
        stored: Counter,
    ) -> None:
        """`digest` is that of the selector. `stored` counts checkpoints."""
        self.positions = positions
        self.since_us = since_us
        """Every run created before this was considered."""
        self._checkpoints = checkpoints
        self._tenant = tenant
        self._digest = digest
        self._stored = stored
        self._storing: asyncio.Task[tuple[int, list[int], bool]] | None = None
        self._rostered_at = -ROSTER_MORE_S

    async def checkpoint(self) -> None:
        """Makes the present positions durable, with the list of runs. Raises DatabaseFailed."""
        self.positions.roster = None
        key, sent, with_runs = await self._store(list(self.positions.sent))
        self._rebase(key, sent, with_runs=with_runs)

    async def make_room_for(self, number: int, *, before_waiting: Callable[[], None]) -> None:
        """Sees to it that the next id can mention the run of that number, and is short."""
        positions = self.positions
        self._adopt()
        while number >= positions.known or (not positions.has_step(number) and positions.steps >= STEPS_MAX):
            before_waiting()
            storing = self._store_soon()
            unknown = number >= positions.known
            with contextlib.suppress(DatabaseFailed, TimeoutError):
                await asyncio.wait_for(asyncio.shield(storing), None if unknown else PATIENCE_S)
            failed = storing.done() and storing.exception() is not None
            if failed and unknown:
                storing.result()
            self._adopt()
            if failed or not storing.done():
                return
        if positions.steps >= STEPS_SOON and (positions.key != ZERO or len(positions.runs) > STEPS_MAX):
            self._store_soon()

    def cancel(self) -> None:
        """Stops waiting for a checkpoint."""
        if self._storing is not None:
            self._storing.cancel()
            self._storing = None

    def _store_soon(self) -> asyncio.Task[tuple[int, list[int], bool]]:
        if self._storing is None:
            self._storing = asyncio.create_task(self._store(list(self.positions.sent)), name="checkpoint of many runs")
        return self._storing

    def _adopt(self) -> None:
        """Counts from the checkpoint that was stored meanwhile, if one was."""
        storing = self._storing
        if storing is not None and storing.done():
            self._storing = None
            if not storing.cancelled() and storing.exception() is None:
                key, sent, with_runs = storing.result()
                self._rebase(key, sent, with_runs=with_runs)

    async def _store(self, sent: list[int]) -> tuple[int, list[int], bool]:
        positions = self.positions
        runs, roster = positions.runs[: len(sent)], positions.roster
        joined = () if roster is None else tuple(runs[positions.rostered :])
        aged = monotonic() - self._rostered_at > ROSTER_MORE_S / 2
        many = len(joined) > max(JOINED_MIN, (len(runs) + len(positions.past)) // JOINED_SHARE)
        if with_runs := roster is None or aged or many:
            roster, joined = None, ()
        grown = GROWN if joined or positions.past else b""
        key = await self._checkpoints.store(
            Checkpoint(
                self._tenant,
                self._digest + grown,
                self.since_us,
                tuple(runs) if with_runs else None,
                tuple(sent),
                roster,
                joined,
                tuple(positions.past) if with_runs else (),
            )
        )
        self._stored.inc()
        return key, sent, with_runs

    def _rebase(self, key: int, sent: Sequence[int], *, with_runs: bool) -> None:
        self.positions.rebase(key, sent)
        if with_runs:
            self.positions.roster, self.positions.rostered = key, len(sent)
            self._rostered_at = monotonic()
