"""Measures the bloat that ten million appended and published events leave in the tables."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Final

import asyncpg

from benchmarks.in_process import EVENT, make_runs, pipeline, published
from benchmarks.stand import Stand
from runwire.model.event import Source

NAME = "bloat"
TITLE = "Tables after 10 million appended and published events, and written anew (`VACUUM FULL`)"
EVENTS: Final = 10_000_000
RUNS: Final = 1000
CALLERS: Final = 1024
_TABLES: Final = """
    SELECT coalesce(parent.relname, child.relname) AS name,
           sum(pg_table_size(child.oid))::bigint AS bytes, sum(pg_indexes_size(child.oid))::bigint AS index_bytes
    FROM pg_class AS child
    LEFT JOIN pg_inherits AS link ON link.inhrelid = child.oid
    LEFT JOIN pg_class AS parent ON parent.oid = link.inhparent
    WHERE child.relkind = 'r' AND coalesce(parent.relname, child.relname) IN ('runs', 'run_outbox', 'run_events')
    GROUP BY 1 ORDER BY 1
"""
_measured: dict[str, dict[str, float]] = {}


async def measure(stand: Stand) -> dict[str, dict[str, float]]:
    """Once: it takes minutes, and every further round gives the same figures."""
    if not _measured:
        dsn = await stand.database(NAME)
        run_ids = await make_runs(dsn, RUNS)
        began = time.perf_counter()
        await _append(dsn, run_ids)
        took = time.perf_counter() - began
        connection = await asyncpg.connect(dsn)
        left = {row["name"]: row for row in await connection.fetch(_TABLES)}
        for name in left:
            await connection.execute(f"VACUUM FULL {name}")  # a name of the statement above
        anew = {row["name"]: row for row in await connection.fetch(_TABLES)}
        await connection.close()
        for name, row in left.items():
            _measured[name] = {
                "table MiB": row["bytes"] / 2**20,
                "written anew": anew[name]["bytes"] / 2**20,
                "indexes MiB": row["index_bytes"] / 2**20,
                "indexes anew": anew[name]["index_bytes"] / 2**20,
                "events/s meanwhile": EVENTS / took,
            }
    return _measured


async def _append(dsn: str, run_ids: list[str]) -> None:
    """One event an append, to each run in turn, while a publisher puts them on a bus."""
    turns, numbers = itertools.cycle(run_ids), iter(range(EVENTS))
    async with pipeline(dsn) as stages:

        async def call() -> None:
            for _ in numbers:
                await stages.log.append(next(turns), EVENT, fence=1, source=Source.API)

        await asyncio.gather(*(call() for _ in range(CALLERS)))
        await published(dsn)
