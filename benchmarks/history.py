"""Fills a database like one that has been in use: millions of stored events, and open runs that are at rest."""

from __future__ import annotations

from typing import Final

import asyncpg

from runwire.db.sql import load_sql

EVENTS_PER_RUN: Final = 48
_SQL: Final = load_sql("benchmarks", "history.sql")
_RUNS_AT_ONCE: Final = 10_000


async def add_history(dsn: str, *, events: int, idle_runs: int) -> None:
    """Stores so many events of finished runs and so many idle runs, then vacuums as autovacuum would have by then."""
    connection = await asyncpg.connect(dsn)
    try:
        # Loading is not part of the measurement, so it need not reach the disk at each commit.
        await connection.execute("SET synchronous_commit = off")
        have = await connection.fetchval("SELECT count(*) FROM runs WHERE run_id ~ '^[0-9]{8}-'")
        first, last = have + 1, have + events // EVENTS_PER_RUN
        for start in range(first, last + 1, _RUNS_AT_ONCE):
            upto = min(start + _RUNS_AT_ONCE - 1, last)
            await connection.execute(_SQL["finished_runs"], start, upto)
            await connection.execute(_SQL["their_events"], start, upto)
        if idle_runs:
            await connection.execute(_SQL["idle_runs"], idle_runs)
        await connection.execute("VACUUM (ANALYZE)")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
