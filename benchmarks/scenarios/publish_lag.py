"""From the append call to the bus, in one process, at a steady rate."""

from __future__ import annotations

from benchmarks.in_process import make_runs, pipeline, publish_lag
from benchmarks.stand import Stand

NAME = "publish-lag"
TITLE = "Append call to bus, one process, 2000 events/s over 100 runs"
_run_ids: list[str] = []


async def measure(stand: Stand) -> dict[str, dict[str, float]]:
    dsn = await stand.database("publish_lag")
    if not _run_ids:
        _run_ids.extend(await make_runs(dsn, 100))
    async with pipeline(dsn) as stages:
        stages.publisher.sweep_soon()
    await stand.settle("publish_lag")
    found = await publish_lag(dsn, _run_ids, rate=2000, seconds=stand.seconds)
    return {"2000 events/s": {"p50 ms": found.p50_ms, "p99 ms": found.p99_ms, "max ms": found.max_ms}}
