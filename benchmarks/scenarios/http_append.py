"""Appends of external orchestrators over HTTP: 32 producers, each a request at a time."""

from __future__ import annotations

from benchmarks.programs import post
from benchmarks.stand import Stand

NAME = "http-append"
TITLE = "Appends over HTTP, 32 producers, each a request at a time"
PRODUCERS = 32
BATCHES = (1, 50)


async def measure(stand: Stand) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    async with stand.serving("http_append") as serving:
        for batch in BATCHES:
            prefix = stand.prefix()
            await serving.do("runs", prefix=prefix, count=PRODUCERS)
            await post(serving.port, producers=PRODUCERS, runs=PRODUCERS, prefix=prefix, batch=batch, seconds=0.5)
            await stand.settle("http_append")
            found = await post(
                serving.port, producers=PRODUCERS, runs=PRODUCERS, prefix=prefix, batch=batch, seconds=stand.seconds
            )
            rows[f"{batch} event{'s' if batch > 1 else ''} a request"] = {
                "events/s": found["events"] / found["s"],
                "requests/s": found["requests"] / found["s"],
                "p50 ms": found["p50_ms"],
                "p99 ms": found["p99_ms"],
            }
    return rows
