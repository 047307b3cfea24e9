"""Gauges of timers and signals: read from the database, whatever workers do."""

from __future__ import annotations

import pytest

from orchestrate.waiting_agents import reviewing
from pipeline import stages
from runwire.observe import Observer
from runwire.observe.metrics import ObserverMetrics
from runwire.orchestrate import StartRequest
from runwire.telemetry.exposition import Exposition
from waiting import eventually


async def test_overdue_timers_and_signals_that_nobody_took_are_counted(database: str) -> None:
    out = Exposition()
    async with stages(database, reviewing()) as s:
        observer = Observer(s.database, ObserverMetrics(out))

        async def seen() -> tuple[float, float, float]:
            await observer.observe()
            values = [
                out.registry.get_sample_value(f"runwire_{name}")
                for name in ("timers_overdue", "timer_oldest_overdue_seconds", "signals_waiting")
            ]
            return values[0] or 0.0, values[1] or 0.0, values[2] or 0.0

        runs = [(await s.control.start(StartRequest(agent="reviewing"))).run_id for _ in range(3)]
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        assert await seen() == (0, 0, 0)
        await s.database.execute("UPDATE runs SET wake_at = now() - interval '60 s' WHERE run_id <> $1", runs[0])
        await s.control.signal(runs[0], "approved", data=b'{"by": "Ann"}')
        overdue, oldest_s, signals = await seen()
        assert (overdue, signals) == (2, 1)
        assert oldest_s == pytest.approx(60, abs=20)
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        assert await seen() == (0, 0, 0)
