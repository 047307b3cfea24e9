"""Durable appends of one event, beside pgbench doing the same in one prepared statement on the same server."""

from __future__ import annotations

from benchmarks.in_process import append_throughput, log_only, make_runs
from benchmarks.pgbench import pgbench
from benchmarks.stand import Stand

NAME = "append"
TITLE = "Durable appends of one event each, over 1000 runs"
RUNS = 1000
CLIENTS = (1, 32)
CALLERS = (1, 32, 256, 2048)
_run_ids: list[str] = []


async def measure(stand: Stand) -> dict[str, dict[str, float]]:
    dsn = await stand.database(NAME)
    if not _run_ids:
        _run_ids.extend(await make_runs(dsn, RUNS))
    rows: dict[str, dict[str, float]] = {}
    for clients in CLIENTS:
        await stand.settle(NAME)
        found = await pgbench(dsn, clients=clients, runs=RUNS, seconds=round(stand.seconds))
        rows[f"pgbench, {clients} clients"] = {"events/s": found.per_s, "p50 ms": found.p50_ms, "p99 ms": found.p99_ms}
    for callers in CALLERS:
        async with log_only(dsn) as log:
            await append_throughput(log, _run_ids, callers=callers, seconds=0.5)  # warms plans and connections
            await stand.settle(NAME)
            result = await append_throughput(log, _run_ids, callers=callers, seconds=stand.seconds)
        rows[f"{callers} callers"] = {"events/s": result.per_s, "p50 ms": result.p50_ms, "p99 ms": result.p99_ms}
    return rows


def compare(rows: dict[str, dict[str, float]]) -> None:
    for callers in CALLERS:
        yardstick = rows[f"pgbench, {1 if callers == 1 else 32} clients"]["events/s"]
        rows[f"{callers} callers"]["x pgbench"] = rows[f"{callers} callers"]["events/s"] / yardstick
