"""From the append call to the bytes at a client: a whole process, its clients in another, one client a run."""

from __future__ import annotations

from benchmarks.programs import crowd
from benchmarks.stand import Serving, Stand

NAME = "end-to-end"
TITLE = "Append call to bytes at an SSE client, one client a run"
RATES = ((200, 100), (2000, 1), (2000, 100), (2000, 5000), (5000, 100))
SATURATED = ((32, 100), (256, 100), (1024, 100), (1024, 1), (1024, 5000))


async def measure(stand: Stand) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    async with stand.serving("end_to_end") as serving:
        for rate, runs in RATES:
            rows[f"{rate} events/s, {runs} runs"] = await _at_rate(stand, serving, rate=rate, runs=runs)
        for callers, runs in SATURATED:
            rows[f"{callers} callers, {runs} runs"] = await _saturated(stand, serving, callers=callers, runs=runs)
    return rows


async def _at_rate(stand: Stand, serving: Serving, *, rate: int, runs: int) -> dict[str, float]:
    prefix = stand.prefix()
    await serving.do("runs", prefix=prefix, count=runs)
    await stand.settle("end_to_end")
    async with crowd(serving.port, clients=runs, runs=runs, prefix=prefix, after=1) as clients:
        warm = (await serving.do("rate", prefix=prefix, runs=runs, rate=rate, seconds=0.5))["appended"]
        await clients.expect(warm)
        await clients.reset()
        sent = (await serving.do("rate", prefix=prefix, runs=runs, rate=rate, seconds=stand.seconds))["appended"]
        found = await clients.expect(sent)
    return {
        "events/s": found["deliveries"] / found["s"],
        "p50 ms": found["p50_ms"],
        "p99 ms": found["p99_ms"],
        "max ms": found["max_ms"],
        "missing": sent - found["deliveries"],
    }


async def _saturated(stand: Stand, serving: Serving, *, callers: int, runs: int) -> dict[str, float]:
    prefix = stand.prefix()
    await serving.do("runs", prefix=prefix, count=runs)
    await stand.settle("end_to_end")
    async with crowd(serving.port, clients=runs, runs=runs, prefix=prefix, after=1) as clients:
        warm = (await serving.do("closed", prefix=prefix, runs=runs, callers=callers, seconds=0.5))["appended"]
        await clients.expect(warm)
        await clients.reset()
        sent = await serving.do("closed", prefix=prefix, runs=runs, callers=callers, seconds=stand.seconds)
        found = await clients.expect(sent["appended"])
    return {
        "events/s": found["deliveries"] / found["s"],
        "p50 ms": found["p50_ms"],
        "p99 ms": found["p99_ms"],
        "max ms": found["max_ms"],
        "us CPU/event": sent["cpu_s"] / sent["appended"] * 1e6,
        "missing": sent["appended"] - found["deliveries"],
    }
