"""The same load for every peer: events of the size of runwire's, in a closed loop or at a steady rate.

Also run by the interpreter of the peers' own environment, so it uses the standard library alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

Append = Callable[[str, str], Awaitable[object]]
"""Of a run and an event, as JSON; returns when the peer says that it is kept."""


def event(run_id: str, seq: int) -> str:
    """An event as runwire sends it, with the time of its append by the clock that all processes here share."""
    now = time.monotonic_ns() // 1000
    return (
        f'{{"runId":"{run_id}","seq":{seq},"ts":{time.time_ns() // 1_000_000},"type":"DebugTrace","v":1,'
        f'"source":"outbox","fn":"t.{now}"}}'
    )


async def count(append: Append, prefix: str, runs: int, *, callers: int, events: int) -> None:
    """A closed loop: so many events by so many callers."""
    left = iter(range(events))

    async def call() -> None:
        for n in left:
            run_id = f"{prefix}-{n % runs}"
            await append(run_id, event(run_id, n))

    await asyncio.gather(*(call() for _ in range(callers)))


async def closed(append: Append, prefix: str, runs: int, *, callers: int, seconds: float) -> list[float]:
    """The seconds each append took, of as many as so many callers got done."""
    latencies: list[float] = []
    until = time.perf_counter() + seconds

    async def call(nth: int) -> None:
        while (asked := time.perf_counter()) < until:
            run_id = f"{prefix}-{nth % runs}"
            await append(run_id, event(run_id, nth))
            latencies.append(time.perf_counter() - asked)
            nth += callers

    await asyncio.gather(*(call(nth) for nth in range(callers)))
    return latencies


async def rate(append: Append, prefix: str, runs: int, *, per_s: float, seconds: float) -> int:
    """An open loop: how many events were appended, none of which waited for the one before."""
    pending: set[asyncio.Task[object]] = set()
    began = time.perf_counter()
    sent = 0
    while (now := time.perf_counter() - began) < seconds:
        while sent < now * per_s:
            run_id = f"{prefix}-{sent % runs}"
            task = asyncio.ensure_future(append(run_id, event(run_id, sent)))
            pending.add(task)
            task.add_done_callback(pending.discard)
            sent += 1
        await asyncio.sleep(0.001)
    if pending:
        await asyncio.gather(*pending)
    return sent
