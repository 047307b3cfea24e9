"""Periodic queries find their rows by index, however large the tables are."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pipeline import RecordingBus, Stages, stages
from runwire.db import Transaction, load_sql, seen_by

FINISHED, IDLE, MANY = 4000, 1000, 100_000


@asynccontextmanager
async def aged(database: str) -> AsyncIterator[Stages]:
    """A database with thousands of finished runs, and a thousand open ones in which nothing happens."""
    async with stages(database) as s:
        await s.database.execute(
            "INSERT INTO runs (run_id, agent, state, last_seq, started_at, finished_at, request_hash, input) "
            "SELECT 'old-' || n, 'x', 'finished', 2, now(), now() - interval '1 day', '', '' "
            "FROM generate_series(1, $1::int) AS n",
            FINISHED,
        )
        await s.database.execute(
            "INSERT INTO runs (run_id, agent, state, external, last_seq, started_at, waiting_for, lease_until, "
            "request_hash, input) "
            "SELECT 'idle-' || n, 'x', (CASE WHEN n % 2 = 0 THEN 'waiting' ELSE 'started' END)::run_state, n % 2 = 1, "
            "2, now(), CASE WHEN n % 2 = 0 THEN 'go' END, CASE WHEN n % 2 = 1 THEN now() + interval '1 h' END, '', '' "
            "FROM generate_series(1, $1::int) AS n",
            IDLE,
        )
        await s.database.execute(
            "INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source, fn) "
            "SELECT run_day, run_id, k, 1, (ARRAY['RunStarted', 'DebugTrace'])[k]::event_type, 'worker', "
            "CASE WHEN k = 2 THEN 'a.b' END FROM runs, generate_series(1, 2) AS k"
        )
        await s.database.execute(
            "INSERT INTO run_outbox (run_id, run_day, next_seq, updated_at) "
            "SELECT run_id, run_day, 3, now() - interval '1 h' FROM runs WHERE state IN ('started', 'waiting')"
        )
        publisher = s.publisher(RecordingBus())
        parked = 0
        while found := await publisher.park_idle():
            parked += found
        assert parked == IDLE
        await publisher.aclose()
        await s.started_run("alive")
        await s.database.execute("UPDATE runs SET wake_at = now() + interval '1 h' WHERE state = 'waiting'")
        await s.database.execute("VACUUM (ANALYZE)")
        yield s


EPOCH = dt.datetime.fromtimestamp(0, dt.UTC)
STATEMENTS: dict[str, tuple[str, str, tuple[object, ...]]] = {
    "backlog": ("observe", "backlog", ()),
    "active": ("observe", "active", ()),
    "open_runs": ("observe", "open_runs", ("", 500)),
    "closed_runs": ("observe", "closed_runs", (EPOCH, 500)),
    "all_runs": ("observe", "all_runs", ("", 500)),
    "audit": ("observe", "audit", (["old-1", "idle-1", "alive"],)),
    "unpublished": ("publish", "unpublished", (10_000, None)),
    "park": ("publish", "park", (60.0, 500)),
    "claim": ("orchestrate", "claim", (["x"], 10, "w", 30.0)),
    "next_timer": ("orchestrate", "next_timer", (["x"],)),
    "timers": ("observe", "timers", ()),
    "unclaimed": ("observe", "unclaimed", ()),
    "overdue": ("observe", "overdue", (["x"], [3000.0], 600.0)),
    "take_expired_external": ("orchestrate", "take_expired_external", ("w", 10)),
}


async def test_no_statement_that_is_run_again_and_again_reads_all_runs_or_events(database: str) -> None:
    async with aged(database) as s:
        today = await s.database.fetchval("SELECT to_char(run_day, 'YYYYMMDD') FROM runs WHERE run_id = 'alive'")
        for name, (stage, statement, arguments) in STATEMENTS.items():
            sql = load_sql(f"runwire.{stage}", f"{stage}.sql")[statement]
            async with s.database.transaction() as tx:
                plan = "\n".join(row[0] for row in await tx.fetch(f"EXPLAIN (ANALYZE) {sql}", *arguments))
            assert not re.search(rf"Seq Scan on (runs|run_events_{today}) [^\n]*actual time", plan), f"{name}\n{plan}"
            if name not in ("active", "all_runs"):  # these count and page what they are asked for
                rows = [float(found) for found in re.findall(r"actual time=\S+ rows=([\d.]+)", plan)]
                assert max(rows) < IDLE / 2, f"{name}\n{plan}"


LISTS: dict[str, tuple[str | None, str | None]] = {
    "all": (None, None),
    "a state": ("failed", None),
    "the state of most": ("finished", None),
    "a state that none is in": ("cancelled", None),
    "an agent": (None, "rare"),
    "the agent of most": (None, "x"),
    "an agent that none has": (None, "nobody"),
    "an agent in a state": ("failed", "x"),
    "an agent in a state that none of its runs is in": ("failed", "rare"),
}


@pytest.mark.parametrize("tenant", [None, "default"])
async def test_every_list_of_runs_reads_no_more_than_its_page(database: str, tenant: str | None) -> None:
    sql = load_sql("runwire.orchestrate", "orchestrate.sql")["page"]
    async with aged(database) as s:
        await s.database.execute("UPDATE runs SET agent = 'rare' WHERE run_id IN ('old-7', 'old-8')")
        await s.database.execute("UPDATE runs SET created_at = created_at - last_seq * interval '1 s'")
        await s.database.execute(
            "INSERT INTO runs (run_id, agent, state, last_seq, started_at, finished_at, request_hash, input) "
            "SELECT 'failed-' || n, 'x', 'failed', 2, now(), now(), '', '' FROM generate_series(1, 10) AS n"
        )
        await s.database.execute(
            "INSERT INTO runs (run_id, agent, state, last_seq, created_at, started_at, finished_at, request_hash, "
            "input) SELECT 'more-' || n, 'x', 'finished', 2, now() - n * interval '1 s', now(), now(), '', '' "
            "FROM generate_series(1, $1::int) AS n",
            MANY,
        )
        await s.database.execute("ANALYZE")
        pages = await s.database.fetchval("SELECT relpages FROM pg_class WHERE relname = 'runs'")
        for name, (state, agent) in LISTS.items():

            async def explained(tx: Transaction, state: str | None = state, agent: str | None = agent) -> str:
                await tx.execute("SELECT set_config('runwire.tenant', $1, true)", tenant or "")
                rows = await tx.fetch(
                    f"EXPLAIN (ANALYZE, BUFFERS) {sql}",
                    *("default", False, None, "{}", agent, state, None),
                    *(None, None, 2**53 - 1, "", 51, 5000),
                )
                return "\n".join(row[0] for row in rows)

            view = seen_by(s.database, tenant)
            await view.in_transaction(explained)  # the catalogue is read by now
            plan = await view.in_transaction(explained)
            hit, read = re.search(r"Buffers: shared hit=(\d+)(?: read=(\d+))?", plan).groups()  # type: ignore[union-attr]
            assert int(hit) + int(read or 0) < pages / 3, f"{name}\n{plan}"
            assert not re.search(r"Seq Scan on runs [^\n]*actual time", plan), f"{name}\n{plan}"
