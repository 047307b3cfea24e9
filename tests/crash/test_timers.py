"""Timers through SIGKILL: each fires once, and after its time, whichever workers die."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import asyncpg
import pytest

from crash.fleet import QUICK_TAKEOVER, fleet_of
from waiting import eventually

pytestmark = [pytest.mark.crash, pytest.mark.timeout(180)]

RUNS = 60
TESTS = Path(__file__).parents[1]
SLEEPERS = {**QUICK_TAKEOVER, "RUNWIRE_AGENTS": "crash.sleeper:sleeper", "PYTHONPATH": str(TESTS)}
WOKEN = """
SELECT run_id, count(*) FILTER (WHERE type = 'NodeFinished' AND name = 'Doze') AS dozed,
       count(*) FILTER (WHERE type = 'NodeFinished' AND name = 'Wake') AS woken,
       count(*) FILTER (WHERE type = 'RunFinished') AS ended,
       min(ts_us) FILTER (WHERE name = 'Wake')
           - min(ts_us) FILTER (WHERE type = 'NodeFinished' AND name = 'Doze') AS slept_us
FROM run_events GROUP BY run_id
"""


async def test_each_timer_fires_once_while_workers_are_killed(database: str, tmp_path: Path) -> None:
    rng = random.Random(7)
    async with fleet_of(("api", "worker", "worker"), database=database, logs=tmp_path, environment=SLEEPERS) as fleet:
        connection = await asyncpg.connect(database)
        try:
            await connection.execute(
                "WITH made AS (INSERT INTO runs (run_id, agent, request_hash, input) "
                "SELECT 'sleeps-' || n, 'sleeper', '', '{}' FROM generate_series(1, $1::int) AS n "
                "RETURNING run_id, run_day) "
                "INSERT INTO run_outbox (run_id, run_day) SELECT run_id, run_day FROM made",
                RUNS,
            )

            async def all_ended() -> bool:
                return not await connection.fetchval("SELECT EXISTS (SELECT FROM runs WHERE finished_at IS NULL)")

            for _ in range(5):
                victim = rng.choice(fleet.of("worker"))
                victim.kill()
                await asyncio.sleep(rng.uniform(0.2, 0.8))  # the moment of the fault is what varies
                await victim.start()
            await eventually(all_ended, within_s=90)
            rows = await connection.fetch(WOKEN)
        finally:
            await connection.close()
        assert len(rows) == RUNS
        assert {(row["dozed"], row["woken"], row["ended"]) for row in rows} == {(1, 1, 1)}
        assert min(row["slept_us"] for row in rows) >= 2_000_000 - 1000
        assert fleet.errors() == []
