"""`make bench`: appends beside pgbench, and publish lag, on an embedded PostgreSQL with fsync on."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.bench import append_throughput, log_only, make_runs, pipeline, publish_lag
from benchmarks.pgbench import pgbench
from runwire.db import Database
from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres
from runwire.db.migrate import migrate
from runwire.telemetry.logs import configure_logging

RUNS = 1000
LAG_RUNS = 100


async def measure(dsn: str, *, seconds: int, rounds: int, callers: Sequence[int], console: Console) -> dict[str, Any]:
    await migrate(dsn)
    run_ids = await make_runs(dsn, RUNS)
    pg: dict[int, list[dict[str, Any]]] = {1: [], 32: []}
    append: dict[int, list[dict[str, Any]]] = {count: [] for count in callers}
    lag: list[dict[str, Any]] = []
    for n in range(rounds):
        with console.status(f"round {n + 1} of {rounds}"):
            for clients, found in pg.items():
                found.append(asdict(await pgbench(dsn, clients=clients, runs=RUNS, seconds=seconds)))
            for count, results in append.items():
                async with log_only(dsn) as log:
                    await append_throughput(log, run_ids, callers=count, seconds=0.5)  # warms plans and connections
                    results.append(asdict(await append_throughput(log, run_ids, callers=count, seconds=seconds)))
            async with pipeline(dsn) as stages:
                stages.publisher.sweep_soon()  # what the appends left goes out before lag is measured
            async with Database(dsn) as database:
                await database.execute("CHECKPOINT")  # nor is their writing to disk part of the steady state
            lag.append(asdict(await publish_lag(dsn, run_ids[:LAG_RUNS], rate=2000, seconds=seconds)))
    return {"pgbench": pg, "append": append, "lag": lag}


def middle(results: list[dict[str, Any]], key: str) -> float:
    return float(statistics.median(result[key] for result in results))


def report(figures: dict[str, Any], console: Console) -> None:
    base = middle(figures["pgbench"][32], "per_s")
    single = middle(figures["pgbench"][1], "per_s")
    table = Table(title="Durable appends of one event (fsync on, telemetry on), medians")
    for column in ("what", "events/s", "p50 ms", "p99 ms", "x pgbench"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for clients, results in figures["pgbench"].items():
        table.add_row(
            f"pgbench, {clients} clients",
            f"{middle(results, 'per_s'):,.0f}",
            f"{middle(results, 'latency_ms'):.2f}",
            "",
            "1.00",
        )
    for callers, results in figures["append"].items():
        reference = single if callers == 1 else base
        table.add_row(
            f"runwire, {callers} callers",
            f"{middle(results, 'per_s'):,.0f}",
            f"{middle(results, 'p50_ms'):.2f}",
            f"{middle(results, 'p99_ms'):.2f}",
            f"{middle(results, 'per_s') / reference:.2f}",
        )
    console.print(table)
    lag = figures["lag"]
    table = Table(title="Append call to bus, one process, medians")
    for column in ("rate ev/s", "runs", "p50 ms", "p99 ms", "max ms"):
        table.add_column(column, justify="right")
    table.add_row(
        str(lag[0]["rate"]), str(lag[0]["runs"]), *(f"{middle(lag, key):.2f}" for key in ("p50_ms", "p99_ms", "max_ms"))
    )
    console.print(table)


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="per measurement")
    parser.add_argument("--rounds", type=int, default=3, help="medians are of this many")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 32, 256, 2048])
    parser.add_argument("--json", type=Path, help="write every figure of every round here")
    options = parser.parse_args()
    configure_logging("warning", stream=sys.stderr)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="runwire-bench-") as folder:
        async with EmbeddedPostgres(EmbeddedOptions(Path(folder) / "postgres")) as postgres:
            figures = await measure(
                postgres.dsn, seconds=options.seconds, rounds=options.rounds, callers=options.callers, console=console
            )
    figures["machine"] = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    report(figures, console)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(main())
    except ImportError:
        asyncio.run(main())
