"""Measures append throughput and latency beside pgbench, and publish lag at a steady rate."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import asyncpg

from runwire.append import Change, EventLog
from runwire.bus import Published
from runwire.bus.memory import MemoryBus
from runwire.db import Database
from runwire.model.event import RUN_STARTED, Source, debug_trace
from runwire.model.graph import Agents
from runwire.model.run import RunState
from runwire.orchestrate import RunControl, StartRequest
from runwire.publish import Publisher, PublishWorker
from runwire.telemetry.metrics import Metrics
from runwire.telemetry.spans import NO_SPANS

EVENT = (debug_trace("a.b"),)
_WAITING = (
    "SELECT EXISTS (SELECT FROM run_outbox AS o JOIN runs AS r USING (run_id)"
    " WHERE NOT o.parked AND o.next_seq <= r.last_seq)"
)


@dataclass(frozen=True, slots=True)
class AppendResult:
    callers: int
    per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class LagResult:
    rate: int
    runs: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Stages:
    log: EventLog
    bus: MemoryBus
    publisher: PublishWorker


@asynccontextmanager
async def log_only(dsn: str) -> AsyncIterator[EventLog]:
    """The log without a publisher: what pgbench's transaction is compared with."""
    async with (
        Database(dsn) as database,
        EventLog(database, metrics=Metrics({}), on_committed=lambda _run_ids: None) as log,
    ):
        yield log


@asynccontextmanager
async def pipeline(dsn: str) -> AsyncIterator[Stages]:
    """Append and publish as `serve` joins them in one process, metrics on."""
    metrics = Metrics({})
    bus = MemoryBus()
    async with Database(dsn) as database:
        publisher = PublishWorker(Publisher(database, bus, metrics=metrics, spans=NO_SPANS))
        async with EventLog(database, metrics=metrics, on_committed=publisher.mark_dirty) as log:
            loop = asyncio.create_task(publisher.run())
            try:
                yield Stages(log, bus, publisher)
            finally:
                publisher.stop()
                await loop


async def make_runs(dsn: str, count: int, *, prefix: str = "bench") -> list[str]:
    """Started external runs with fence 1, whose RunStarted is published."""
    async with Database(dsn) as database, pipeline(dsn) as stages:
        control = RunControl(
            database, Agents(), on_claimable=lambda _agent: None, on_cancel=lambda _run: None, first_fence=lambda: 1
        )
        run_ids = [f"{prefix}-{n}" for n in range(1, count + 1)]
        started = Change(RunState.STARTED)
        for run_id in run_ids:
            await control.start(StartRequest(agent="bench", run_id=run_id, external=True, lease_s=3600))
        await asyncio.gather(
            *(
                stages.log.append(run_id, [RUN_STARTED], fence=1, source=Source.API, change=started)
                for run_id in run_ids
            )
        )
    return run_ids


async def published(dsn: str) -> None:
    """Returns when all that is stored has been put on the bus."""
    connection = await asyncpg.connect(dsn)
    while await connection.fetchval(_WAITING):
        await asyncio.sleep(0.05)
    await connection.close()


async def append_throughput(log: EventLog, run_ids: Sequence[str], *, callers: int, seconds: float) -> AppendResult:
    """Closed loop: each caller appends one event at a time, to runs by chance."""
    latencies: list[float] = []
    stop_at = time.perf_counter() + seconds

    async def call() -> None:
        choose = random.Random(0).choice if callers == 1 else random.choice  # load, no secret
        while (asked := time.perf_counter()) < stop_at:
            await log.append(choose(run_ids), EVENT, fence=1, source=Source.API)
            latencies.append(time.perf_counter() - asked)

    began = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    took = time.perf_counter() - began
    cuts = statistics.quantiles(latencies, n=100)
    return AppendResult(callers, len(latencies) / took, cuts[49] * 1000, cuts[98] * 1000)


async def publish_lag(dsn: str, run_ids: Sequence[str], *, rate: int, seconds: float, warm_s: float = 0.5) -> LagResult:
    """Open loop at `rate` events a second: from the append call to the bus delivering the event.

    The first `warm_s` seconds, in which connections open and statements are prepared, do not count.
    """
    lags: list[float] = []
    counts_from = float("inf")
    delivered = 0
    called: dict[str, list[float]] = {run_id: [] for run_id in run_ids}

    def deliver(message: Published) -> None:
        nonlocal delivered
        delivered += len(message.events or ())
        now = time.perf_counter()
        waiting = called[message.run_id]
        for _ in message.events or ():
            asked = waiting.pop(0)
            if asked >= counts_from:
                lags.append(now - asked)

    async with pipeline(dsn) as stages, AsyncExitStack() as leaving:
        subscriptions = [stages.bus.subscribe(run_id, deliver) for run_id in run_ids]
        for subscription in subscriptions:
            await leaving.enter_async_context(subscription)
        waiters: set[asyncio.Future[object]] = set()
        began = time.perf_counter()
        counts_from = began + warm_s
        sent = 0
        while (now := time.perf_counter() - began) < warm_s + seconds:
            while sent < now * rate:
                run_id = run_ids[sent % len(run_ids)]
                called[run_id].append(time.perf_counter())
                waiter = stages.log.submit(run_id, EVENT, fence=1, source=Source.API)
                waiters.add(waiter)  # type: ignore[arg-type]
                waiter.add_done_callback(waiters.discard)
                sent += 1
            await asyncio.sleep(0.001)  # shorter ones are a busy loop under uvloop
        await asyncio.gather(*waiters)
        while delivered < sent:  # an event would cost every delivery a little
            await asyncio.sleep(0.01)
    cuts = statistics.quantiles(lags, n=100)
    return LagResult(rate, len(run_ids), cuts[49] * 1000, cuts[98] * 1000, max(lags) * 1000)
