"""Whether it stays as fast when the database grows: stored events, and open runs in which nothing happens."""

from __future__ import annotations

import asyncpg

from benchmarks.history import add_history
from benchmarks.in_process import append_throughput, log_only, make_runs, pipeline, publish_lag, published
from benchmarks.stand import Stand
from runwire.bus.memory import MemoryBus
from runwire.db import Database
from runwire.publish import Publisher
from runwire.telemetry.metrics import Metrics
from runwire.telemetry.spans import NO_SPANS

NAME = "growth"
TITLE = "The same with stored events and idle runs in the database"
SIZES = ((0, 0), (1_000_000, 0), (10_000_000, 0), (10_000_000, 100_000))
LAG_TURNS = 3
"""A 99th percentile that is compared with another wants more than a turn's events."""
_run_ids: dict[str, list[str]] = {}


def _name(events: int, idle: int) -> str:
    return f"growth_{events // 1_000_000}m_{idle // 1000}k"


async def measure(stand: Stand) -> dict[str, dict[str, float]]:
    """Every size has a database of its own, filled in the first round."""
    rows: dict[str, dict[str, float]] = {}
    for events, idle in SIZES:
        name = _name(events, idle)
        dsn = await stand.database(name)
        if name not in _run_ids:
            _run_ids[name] = await make_runs(dsn, 1000)
            await add_history(dsn, events=events, idle_runs=idle)
            await _park(dsn, idle)
        run_ids = _run_ids[name]
        async with log_only(dsn) as log:
            await append_throughput(log, run_ids, callers=256, seconds=0.5)
            await stand.settle(name)
            appended = await append_throughput(log, run_ids, callers=256, seconds=stand.seconds)
        async with pipeline(dsn) as stages:
            stages.publisher.sweep_soon()
            await published(dsn)  # what was appended without a publisher: a lag is of what comes after it
        await stand.settle(name)
        lag = await publish_lag(dsn, run_ids[:100], rate=2000, seconds=LAG_TURNS * stand.seconds)
        rows[f"{events:,} events, {idle:,} idle runs"] = {
            "appends/s, 256 callers": appended.per_s,
            "append p99 ms": appended.p99_ms,
            "publish lag p50 ms": lag.p50_ms,
            "publish lag p99 ms": lag.p99_ms,
        }
    return rows


async def _park(dsn: str, idle: int) -> None:
    """As the publisher has done a few minutes after these runs fell silent."""
    async with Database(dsn) as database:
        publisher = Publisher(database, MemoryBus(), metrics=Metrics({}), spans=NO_SPANS)
        while await publisher.park_idle():
            pass
        await publisher.aclose()
    connection = await asyncpg.connect(dsn)
    if idle != await connection.fetchval("SELECT count(*) FROM run_outbox WHERE parked"):
        raise SystemExit("idle runs were not parked: this is not what is said to be measured")
    await connection.execute("VACUUM (ANALYZE) run_outbox")
    await connection.execute("VACUUM runs")
    await connection.close()
