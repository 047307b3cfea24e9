"""Runs of long ago, put into the database as the pipeline would have left them; and an archiver for them."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runwire.archive import ArchiveMetrics, ColdStore, open_store
from runwire.archive.retention import Archiver, Did, StepResult
from runwire.db import Database
from runwire.model.event import StoredEvent
from runwire.stream import LogReader
from runwire.stream.log import Stretch
from runwire.telemetry.exposition import Exposition

NOW = dt.datetime.now(dt.UTC)
LONG_AGO = 40
MS = 1000


def day(days_ago: int) -> dt.date:
    return NOW.date() - dt.timedelta(days=days_ago)


async def run_of(
    database: Database,
    run_id: str,
    *,
    days_ago: int = LONG_AGO,
    events: int = 13,
    state: str = "finished",
    tenant: str = "default",
) -> list[StoredEvent]:
    """A run with so many events, which ended so long ago, or (in state `started`) goes on. Returns its log."""
    seeded = random.Random(run_id)
    created = NOW - dt.timedelta(days=days_ago)
    over = state not in ("started", "waiting")
    at_us = int(created.timestamp() * 1_000_000)
    log: list[tuple[int, int, str, str, str | None, str | None]] = []
    for seq in range(1, events + 1):
        at_us += seeded.randrange(300 * MS)
        if seq == 1:
            log.append((seq, at_us, "RunStarted", "worker", None, None))
        elif seq == events and over:
            log.append((seq, at_us, "RunFinished", "worker", None, None))
        elif seeded.random() < 0.4:
            log.append((seq, at_us, "NodeStarted", "worker", f"Node_{seeded.randrange(9)}", None))
        else:
            log.append((seq, at_us, "DebugTrace", "api", None, f"step.{seeded.randrange(99)}:x"))
    await database.fetchval("SELECT make_event_partition($1)", created.date())
    async with database.transaction() as at_once:  # an observer may be looking on
        await at_once.execute(
            "INSERT INTO runs (run_id, run_day, agent, state, last_seq, created_at, started_at, finished_at,"
            " waiting_for, request_hash, input, tenant)"
            " VALUES ($1, $2, 'elsewhere', $3::text::run_state, $4, $5, $5, $6, $7, '', '', $8)",
            run_id,
            created.date(),
            state,
            events,
            created,
            dt.datetime.fromtimestamp(at_us / 1e6, dt.UTC) if over else None,
            "approval" if state == "waiting" else None,
            tenant,
        )
        await at_once.execute(
            "INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source, name, fn)"
            " SELECT $1, $2, e.seq, e.ts_us, e.type::event_type, e.source::event_source, e.name, e.fn FROM unnest("
            "$3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[])"
            " AS e (seq, ts_us, type, source, name, fn)",
            created.date(),
            run_id,
            *map(list, zip(*log, strict=True)),
        )
        if not over:
            await at_once.execute(
                "INSERT INTO run_outbox (run_id, run_day, next_seq) VALUES ($1, $2, $3)",
                run_id,
                created.date(),
                events + 1,
            )
    return [StoredEvent(seq, ts_us, type_, name, fn) for seq, ts_us, type_, _, name, fn in log]


@dataclass
class Archive:
    """An archive in a folder, and what a test does with it."""

    database: Database
    folder: Path
    metrics: ArchiveMetrics = field(default_factory=lambda: ArchiveMetrics(Exposition()))

    @property
    def store(self) -> ColdStore:
        return open_store(str(self.folder))

    def archiver(self, **settings: Any) -> Archiver:
        return Archiver(self.database, self.store, metrics=self.metrics, writer="runwire tests", **settings)

    async def run(self, **settings: Any) -> list[StepResult]:
        """All there is to do."""
        archiver = self.archiver(**settings)
        try:
            return await all_steps(archiver)
        finally:
            await archiver.aclose()

    def data_file(self) -> Path:
        """The only batch's."""
        [found] = self.folder.rglob("*.jsonl.zst")
        return found

    async def partitions(self) -> list[str]:
        rows = await self.database.fetch(
            "SELECT c.relname FROM pg_class AS c WHERE c.relname ~ '^run_events_2' AND c.relkind = 'r'"
            " AND right(c.relname, 8) < to_char(now() - interval '9 days', 'YYYYMMDD') ORDER BY 1"
        )
        return [row["relname"] for row in rows]


async def all_steps(archiver: Archiver) -> list[StepResult]:
    steps: list[StepResult] = []
    while (step := await archiver.step()).did is not Did.NOTHING:
        steps.append(step)
    return steps


@asynccontextmanager
async def archive(dsn: str, folder: Path) -> AsyncIterator[Archive]:
    async with Database(dsn) as database:
        yield Archive(database, folder / "archive")


async def hot(database: Database, run_id: str) -> list[StoredEvent]:
    """The rows of a run that PostgreSQL still has."""
    rows = await database.fetch(
        "SELECT seq, ts_us, type::text, name, fn FROM run_events WHERE run_id = $1 ORDER BY seq", run_id
    )
    return [StoredEvent._make(row) for row in rows]


async def read(reader: LogReader, run_id: str, *, after: int = 0, limit: int = 100_000) -> list[StoredEvent]:
    position = await reader.position(run_id)
    stretch = Stretch(run_id, position.run_day, after, position.published)
    return list(await reader.events(stretch, limit=limit))
