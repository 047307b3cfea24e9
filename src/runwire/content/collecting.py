"""Collects what no artifact refers to, ends content whose time is over, and moves content of archived runs out of
PostgreSQL. Ends parts that were open when their run ended: they count toward their tenant's bytes from then on.

Any number of collectors may run: each takes rows that no other one has locked.
"""

from __future__ import annotations

import asyncio
from typing import Final

from runwire.clock import JITTER
from runwire.content.artifacts import SQL, forget_objects, object_path
from runwire.content.metrics import Collected, ContentMetrics
from runwire.content.settings import DEFAULTS
from runwire.content.store import ContentStore
from runwire.db import ConstraintViolated, Database, Row, load_sql
from runwire.duties import Duty
from runwire.errors import ContentUnavailable
from runwire.telemetry.asyncpg_spans import suppressed

_PARTS: Final = load_sql("runwire.content", "parts.sql")
ROWS_MAX: Final = 200
"""Most rows that one statement takes."""
_PARTS_MAX: Final = 50
"""Most parts whose bytes one statement deletes: each may have many MiB."""
_MOVE_MAX: Final = 50
"""Most artifacts of archived runs that are read into memory at once."""
_BATCHES_MAX: Final = 20
"""Most archived batches that one step looks through."""


class Collector:
    """`collect` is its step, `run` its loop. `keep_days` after its run has ended, content expires; 0: it does not."""

    def __init__(
        self,
        database: Database,
        store: ContentStore | None,
        *,
        metrics: ContentMetrics,
        grace_s: float = DEFAULTS.content_grace_s,
        keep_days: int = DEFAULTS.content_keep_days,
        period_s: float = DEFAULTS.content_collect_s,
    ) -> None:
        self._database = database
        self._store = store
        self._metrics = metrics
        self._grace_s = grace_s
        self._keep_days = keep_days
        self._period_s = period_s

    async def run(self) -> None:
        attempts = self._database.attempts(Duty.COLLECT)
        with suppressed():
            while True:
                collected = 0
                with attempts:
                    collected = await self.collect()
                await asyncio.sleep(attempts.pause_s or (0 if collected >= ROWS_MAX else self._period_s))

    async def collect(self) -> int:
        """One step: how much it has expired, collected, deleted and moved. Objects that the store does not delete stay
        on the list.
        """
        done = len(await self._database.fetch(_PARTS["end_left"], ROWS_MAX))
        if self._keep_days:
            done += await self._expire()
        done += await self._collect_blobs()
        late = await self._database.fetch(SQL["condemn"], self._grace_s, ROWS_MAX)
        self._metrics.collected[Collected.UPLOAD].inc(len(late))
        done += len(late)
        if self._store is not None:
            done += await self._delete_objects(self._store)
            done += await self._move(self._store)
        self._metrics.orphans.set(await self._database.fetchval(SQL["orphans"], self._grace_s))
        return done

    async def _expire(self) -> int:
        artifacts = len(await self._database.fetch(SQL["expire"], self._keep_days, ROWS_MAX))
        self._metrics.collected[Collected.EXPIRED].inc(artifacts)
        parts = 0
        while parts < ROWS_MAX and (rows := await self._database.fetch(_PARTS["expire"], self._keep_days, _PARTS_MAX)):
            parts += len(rows)
            self._metrics.collected[Collected.PART].inc(len(rows))
        return artifacts + parts

    async def _collect_blobs(self) -> int:
        """How many were looked at: some have an artifact again, and stay."""
        try:
            row = await self._database.fetchrow(SQL["collect_blobs"], self._grace_s, ROWS_MAX)
        except ConstraintViolated:  # an artifact was made of one of them meanwhile: next time without it
            return 0
        assert row is not None  # noqa: S101  # the statement gives one
        self._metrics.collected[Collected.BLOB].inc(row["gone"])
        looked: int = row["gone"] + row["kept"]
        return looked

    async def _delete_objects(self, store: ContentStore) -> int:
        deleted: list[Row] = []
        rows = list(await self._database.fetch(SQL["condemned"], ROWS_MAX))
        JITTER.shuffle(rows)  # an object that the store never deletes is not the first one each time
        try:
            for row in rows:
                await store.delete(row["object"])
                deleted.append(row)
        except ContentUnavailable:  # counted by the store; the next step goes on
            pass
        finally:
            if deleted:
                await forget_objects(self._database, deleted)
        return len(deleted)

    async def _move(self, store: ContentStore) -> int:
        """Moves bytes whose runs are all archived. A crash leaves an upload behind, and the bytes where they were."""
        moved = 0
        for _ in range(_BATCHES_MAX):
            batch_id = await self._database.fetchval(SQL["batch_to_move"])
            if batch_id is None:
                break
            while moved < ROWS_MAX and (rows := await self._database.fetch(SQL["to_move"], batch_id, _MOVE_MAX)):
                distinct = {(row["tenant"], row["sha256"]): row for row in rows}
                now = await self._move_these(store, list(distinct.values()))
                moved += now
                if now < len(distinct):  # the store is away, or another collector moves them
                    return moved
            if moved >= ROWS_MAX:
                break
            await self._database.execute(SQL["batch_moved"], batch_id)
        return moved

    async def _move_these(self, store: ContentStore, rows: list[Row]) -> int:
        moved = 0
        for row in rows:
            path = object_path()
            await self._database.execute(SQL["begin_move"], path, row["tenant"], row["size"])
            try:
                await store.put(path, row["data"], size=row["size"], sha256=row["sha256"])
            except ContentUnavailable:
                break
            if await self._database.fetch(SQL["moved"], row["tenant"], row["sha256"], path):
                moved += 1
            else:
                await self._database.execute(SQL["disown"], path, row["tenant"], row["size"])
        return moved
