"""Ten thousand durable timers: from the time that each is due to its run's next node, by the database's clock.

The runs are stored as they rest. Two workers with an event loop of their own each, as two processes have, would share a
core with what measures them; here both are tasks of one loop, which is the harder case.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from benchmarks.stand import Stand
from runwire import END, Agent, Context, Sleep
from runwire.append import EventLog
from runwire.db import Database
from runwire.model.graph import Agents
from runwire.orchestrate import Worker
from runwire.orchestrate.settings import OrchestrateSettings
from runwire.telemetry.metrics import Metrics
from runwire.telemetry.spans import NO_SPANS

NAME = "timers"
TITLE = "Durable timers, from the time they are due to the NodeStarted of their run"
OURS = "runwire"
TIMERS = 10_000
OVER_S = 40.0
FIRST_S = 3.0

Rows = dict[str, dict[str, float]]

REST = """
WITH made AS (
    INSERT INTO runs (run_id, agent, state, last_seq, started_at, waiting_for, waiting_since, wake_at,
                      request_hash, input)
    SELECT 'timer-' || n, 'sleeper', 'waiting', 3, now(), '', now(),
           clock_timestamp() + ($1 + random() * $2) * interval '1 second', '', '{}'
    FROM generate_series(1, $3::int) AS n RETURNING run_id, run_day, wake_at
), begun AS (
    INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source, name)
    SELECT run_day, run_id, e.seq, 0, e.type::event_type, 'worker', e.name
    FROM made, (VALUES (1, 'RunStarted', NULL), (2, 'NodeStarted', 'Doze'), (3, 'NodeFinished', 'Doze'))
               AS e (seq, type, name)
), due AS (
    INSERT INTO due SELECT run_id, run_day, wake_at FROM made
)
INSERT INTO run_checkpoints (run_id, seq, node, next_node, state, on_timeout)
SELECT run_id, 3, 'Doze', 'Wake', '{}', 'Wake' FROM made
"""
FOUND = """
SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY late) AS p50,
       percentile_disc(0.99) WITHIN GROUP (ORDER BY late) AS p99,
       max(late) AS max, min(late) AS min, count(*) AS fired, count(DISTINCT run_id) AS runs
FROM (SELECT e.run_id, e.ts_us / 1e6 - extract(epoch FROM d.wake_at) AS late
      FROM due AS d JOIN run_events AS e ON e.run_day = d.run_day AND e.run_id = d.run_id
      WHERE e.type = 'NodeStarted' AND e.name = 'Wake') AS woken
"""


@dataclass
class Nothing:
    pass


def sleeper() -> Agent[Nothing]:
    agent = Agent("sleeper", start="Doze", state=Nothing)

    @agent.node(to="Wake")
    async def doze(_ctx: Context, _state: Nothing) -> Sleep:
        return Sleep("Wake", for_s=1)

    @agent.node(to=END)
    async def wake(_ctx: Context, _state: Nothing) -> None: ...

    return agent


async def measure(stand: Stand) -> Rows:
    async with _workers(await stand.database("timers")) as database:
        await database.execute("CREATE TABLE due (run_id text, run_day date, wake_at timestamptz)")
        await database.execute(REST, FIRST_S, OVER_S, TIMERS)
        async with asyncio.timeout(OVER_S + 120):
            while await database.fetchval("SELECT EXISTS (SELECT FROM runs WHERE finished_at IS NULL)"):
                await asyncio.sleep(1)
        found = await database.fetchrow(FOUND)
    assert found is not None
    if (found["fired"], found["runs"]) != (TIMERS, TIMERS) or found["min"] < 0:
        raise RuntimeError(
            f"{found['fired']} of {TIMERS} timers fired, of {found['runs']} runs, first {found['min']} s late"
        )
    late = {name: float(found[name]) * 1000 for name in ("p50", "p99", "max")}
    return {f"{TIMERS} timers over {OVER_S:g} s, {name} late, ms": {OURS: value} for name, value in late.items()}


@asynccontextmanager
async def _workers(dsn: str) -> AsyncIterator[Database]:
    metrics = Metrics({})
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database(dsn))
        log = await stack.enter_async_context(EventLog(database, metrics=metrics, on_committed=lambda _runs: None))
        workers = [
            Worker(
                database,
                log,
                Agents([sleeper()]),
                metrics=metrics,
                spans=NO_SPANS,
                worker_id=f"w{n}",
                settings=OrchestrateSettings(),
            )
            for n in range(2)
        ]
        tasks = [asyncio.create_task(worker.run()) for worker in workers]
        try:
            yield database
        finally:
            for worker in workers:
                await worker.drain(within_s=5)
            await asyncio.gather(*tasks)
