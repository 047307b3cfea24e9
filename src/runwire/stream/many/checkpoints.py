"""Durable positions of streams of many runs. Many streams share one commit."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from runwire import clock
from runwire.db import Database, load_sql, seen_by
from runwire.errors import CheckpointGone, DatabaseFailed
from runwire.stream.many.positions import packed, unpacked

SQL: Final = load_sql("runwire.stream.many", "many.sql")
RANDOM_BITS: Final = 22
AT_ONCE: Final = 500
GROWN: Final = b"+"
"""After the selector of a checkpoint whose runs are not only those of a list `runs`: releases that know no others
answer 410, as for a checkpoint that is gone, and tell nothing twice.
"""
ROSTER_MORE_S: Final = 7200.0
"""Seconds that a list of runs is kept longer than positions. Streams store the list again in half of that."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The positions of one client. `since_us`: every run created before it was considered."""

    tenant: str
    selector: bytes
    since_us: int
    runs: tuple[str, ...] | None
    """None: those of the checkpoint `roster`, and `joined`."""
    positions: tuple[int, ...]
    roster: int | None = None
    joined: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    """Beside `runs`: others of which everything was told."""


def new_key() -> int:
    """A key that grows with time: what is stored together lies together, and age can be read from it."""
    return (clock.wall_us() // 1000) << RANDOM_BITS | secrets.randbits(RANDOM_BITS)


def key_at(epoch_s: float) -> int:
    """The lowest key of that moment."""
    return max(int(epoch_s * 1000), 0) << RANDOM_BITS


class Checkpoints:
    """Stores and loads checkpoints; keeps them for `keep_s`."""

    def __init__(self, database: Database, *, keep_s: float, key: Callable[[], int] = new_key) -> None:
        """`key` draws a key, which may be taken. Then another is drawn."""
        self._database = database
        self._keep_s = keep_s
        self._key = key
        self._waiting: list[tuple[Checkpoint, asyncio.Future[int]]] = []
        self._storing: asyncio.Task[None] | None = None

    async def store(self, checkpoint: Checkpoint) -> int:
        """The key, once the checkpoint is durable. Raises DatabaseFailed."""
        stored: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((checkpoint, stored))
        if self._storing is None:
            self._storing = asyncio.create_task(self._store(), name="stream checkpoints")
        return await stored

    async def _store(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                keyed: dict[int, tuple[Checkpoint, asyncio.Future[int]]] = {}
                for waiting in batch:
                    while (key := self._key()) in keyed:
                        pass
                    keyed[key] = waiting
                failure: DatabaseFailed | None = None
                free: set[int] = set()
                try:
                    free = await self._insert({key: made for key, (made, _) in keyed.items()})
                except DatabaseFailed as error:
                    failure = error
                for key, (made, stored) in keyed.items():
                    if stored.done():
                        continue
                    if failure is not None:
                        stored.set_exception(failure)
                    elif key in free:
                        stored.set_result(key)
                    else:  # another process drew the same: once more, with another key
                        self._waiting.append((made, stored))
        finally:
            self._storing = None

    async def _insert(self, keyed: Mapping[int, Checkpoint]) -> set[int]:
        """The keys under which a checkpoint is stored: those that were free."""
        rows = await self._database.fetch(
            SQL["store"],
            list(keyed),
            [made.tenant for made in keyed.values()],
            [made.selector for made in keyed.values()],
            [made.since_us for made in keyed.values()],
            [made.roster for made in keyed.values()],
            [None if made.runs is None else " ".join(made.runs) for made in keyed.values()],
            [" ".join(made.joined) or None for made in keyed.values()],
            [" ".join(made.past) or None for made in keyed.values()],
            [packed(made.positions) for made in keyed.values()],
        )
        return {row["key"] for row in rows}

    async def load(self, key: int, *, tenant: str | None, selector: bytes) -> Checkpoint:
        """Raises CheckpointGone for one that is not there for this tenant and selector, and DatabaseUnavailable."""
        row = await seen_by(self._database, tenant).fetchrow(SQL["load"], key, tenant or "")
        if row is None or row["selector"] not in (selector, selector + GROWN):
            raise CheckpointGone
        runs = tuple(row["runs"])
        positions = tuple(unpacked(row["positions"])[: len(runs)])
        return Checkpoint(tenant or "", selector, row["since_us"], runs, positions, past=tuple(row["past"]))

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
