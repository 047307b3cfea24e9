"""Durable positions of streams of many runs. Many streams share one commit."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Final

from runwire import clock
from runwire.db import Database, load_sql, seen_by
from runwire.errors import CheckpointGone, DatabaseFailed
from runwire.stream.many.positions import packed, unpacked

SQL: Final = load_sql("runwire.stream.many", "many.sql")
RANDOM_BITS: Final = 22
AT_ONCE: Final = 500
ROSTER_MORE_S: Final = 7200.0
"""Seconds that a list of runs is kept longer than positions. Streams store the list again in half of that."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The positions of one client. `since_us`: every run created before it was considered."""

    tenant: str
    selector: bytes
    since_us: int
    runs: tuple[str, ...] | None
    """None: those of the checkpoint `roster`."""
    positions: tuple[int, ...]
    roster: int | None = None


def new_key() -> int:
    """A key that grows with time: what is stored together lies together, and age can be read from it."""
    return (clock.wall_us() // 1000) << RANDOM_BITS | secrets.randbits(RANDOM_BITS)


def key_at(epoch_s: float) -> int:
    """The lowest key of that moment."""
    return max(int(epoch_s * 1000), 0) << RANDOM_BITS


class Checkpoints:
    """Stores and loads checkpoints; keeps them for `keep_s`."""

    def __init__(self, database: Database, *, keep_s: float) -> None:
        self._database = database
        self._keep_s = keep_s
        self._waiting: list[tuple[int, Checkpoint, asyncio.Future[int]]] = []
        self._storing: asyncio.Task[None] | None = None

    async def store(self, checkpoint: Checkpoint) -> int:
        """The key, once the checkpoint is durable. Raises DatabaseFailed."""
        stored: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((new_key(), checkpoint, stored))
        if self._storing is None:
            self._storing = asyncio.create_task(self._store(), name="stream checkpoints")
        return await stored

    async def _store(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                failure: DatabaseFailed | None = None
                try:
                    await self._database.execute(
                        SQL["store"],
                        [key for key, _, _ in batch],
                        [made.tenant for _, made, _ in batch],
                        [made.selector for _, made, _ in batch],
                        [made.since_us for _, made, _ in batch],
                        [made.roster for _, made, _ in batch],
                        [None if made.runs is None else " ".join(made.runs) for _, made, _ in batch],
                        [packed(made.positions) for _, made, _ in batch],
                    )
                except DatabaseFailed as error:
                    failure = error
                for key, _, stored in batch:
                    if stored.done():
                        continue
                    if failure is None:
                        stored.set_result(key)
                    else:
                        stored.set_exception(failure)
        finally:
            self._storing = None

    async def load(self, key: int, *, tenant: str | None, selector: bytes) -> Checkpoint:
        """Raises CheckpointGone for one that is not there for this tenant and selector, and DatabaseUnavailable."""
        row = await seen_by(self._database, tenant).fetchrow(SQL["load"], key, tenant or "")
        if row is None or row["selector"] != selector:
            raise CheckpointGone
        runs = tuple(row["runs"])
        return Checkpoint(tenant or "", selector, row["since_us"], runs, tuple(unpacked(row["positions"])[: len(runs)]))

    async def collect(self, *, at_once: int = 10_000) -> int:
        """One step: deletes all checkpoints that are too old, in statements of a bounded size. Returns how many there
        were: streams store as many as they need, so a bound of their sum would let the table grow.
        """
        old_s = clock.wall_us() / 1e6 - self._keep_s
        collected = 0
        while True:
            done = await self._database.execute(SQL["collect"], key_at(old_s), key_at(old_s - ROSTER_MORE_S), at_once)
            deleted = int(done.rpartition(" ")[2])
            collected += deleted
            if deleted < at_once:
                return collected
