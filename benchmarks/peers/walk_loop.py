"""The loop of a program that walks runs in its own process: a line of JSON asks for runs, a line answers."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

Call = Callable[[str], Awaitable[Any]]
"""Walks the run of that name to its end."""


async def serve(call: Call) -> None:
    """Answers {} and then {"at_once": n, "seconds": s} with what was walked, until the end of stdin."""
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print(json.dumps({}), flush=True)
    numbers = count()
    while line := await commands.readline():
        print(json.dumps(await _walk(call, numbers, **json.loads(line))), flush=True)


async def _walk(call: Call, numbers: count[int], at_once: int, seconds: float) -> dict[str, float]:
    latencies: list[float] = []
    cpu, began = time.process_time(), time.perf_counter()

    async def one_after_the_other() -> None:
        while (asked := time.perf_counter()) < began + seconds:
            await call(f"walk-{next(numbers)}")
            latencies.append(time.perf_counter() - asked)

    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "runs": len(latencies),
        "s": took,
        "p50_ms": cuts[49] * 1000,
        "p99_ms": cuts[98] * 1000,
        "cpu_s": cpu,
    }
