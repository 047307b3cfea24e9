"""Measures the memory of an open stream on which nothing is sent."""

from __future__ import annotations

import asyncio

from benchmarks.programs import crowd
from benchmarks.stand import Stand

NAME = "idle-memory"
TITLE = "Memory of idle streams"
SHAPES = ((1000, 5000), (5000, 5000))


async def measure(stand: Stand) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for runs, clients in SHAPES:
        prefix = stand.prefix()
        async with stand.serving("idle_memory") as serving:
            await serving.do("runs", prefix=prefix, count=runs)
            async with crowd(serving.port, clients=100, runs=100, prefix=prefix, after=1):
                pass  # what the first streams bring into memory is there for all
            await asyncio.sleep(0.5)
            before = (await serving.do("stats"))["rss"]
            async with crowd(serving.port, clients=clients, runs=runs, prefix=prefix, after=1):
                await asyncio.sleep(1)
                after = (await serving.do("stats"))["rss"]
        rows[f"{runs} runs x {clients // runs} clients"] = {
            "KiB a stream": (after - before) / clients / 1024,
            "RSS MiB": after / 2**20,
        }
    return rows
