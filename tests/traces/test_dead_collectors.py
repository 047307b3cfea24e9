"""A collector that is dead, in whatever way, costs spans: no run, no append and no shutdown waits for it."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import get_args

import pytest

from crash.fleet import Member
from postgres import cloned_database
from runwire.client import Client, StartedRun
from runwire.model.event import RUN_STARTED, debug_trace
from runwire.telemetry.span_export import BATCH_SPANS, QUEUE_SPANS
from traces.collectors import Manner, collector
from waiting import eventually

pytestmark = [pytest.mark.crash, pytest.mark.timeout(240)]

ROUNDS = 30
FLOOD_RUNS = 300
AT_ONCE = 20
SPANS_A_RUN = 18
"""At the least: a request, a turn, five nodes, eleven appends; the sends come on top."""
SLACK_S = 0.03
"""Seconds that a busy machine may add to a median; a call that waits for a dead collector takes longer."""
SHUTDOWN_S = 2.0


class Service:
    """`runwire serve` with all roles, every run traced."""

    def __init__(self, process: Member, client: Client) -> None:
        self.process = process
        self.client = client
        self.runs_s: list[float] = []
        self.appends_s: list[float] = []
        self._outside: StartedRun | None = None

    async def measure(self) -> None:
        """One run from its start call to its last event at the client, and one append."""
        began = time.monotonic()
        run = await self.client.start("golden")
        assert [event.seq async for event in self.client.stream(run)][-1] == 13
        self.runs_s.append(time.monotonic() - began)
        if self._outside is None:
            self._outside = await self.client.start("elsewhere", external=True, lease_seconds=600)
            await self.client.append(self._outside, [RUN_STARTED])
        began = time.monotonic()
        await self.client.append(self._outside, [debug_trace("some.fact")])
        self.appends_s.append(time.monotonic() - began)

    async def flood(self, runs: int) -> None:
        async def one() -> None:
            run = await self.client.start("golden")
            async for _ in self.client.stream(run):
                pass

        for _ in range(runs // AT_ONCE):
            await asyncio.gather(*(one() for _ in range(AT_ONCE)))

    def dropped(self) -> float:
        """The metric that counts dropped spans."""
        port = next(line["admin_port"] for line in self.process.lines() if line["event"] == "server_started")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        name = 'runwire_telemetry_dropped_total{signal="traces"} '
        return float(next(line.removeprefix(name) for line in lines if line.startswith(name)))

    def has_dropped(self) -> bool:
        return self.dropped() > 0


@asynccontextmanager
async def services(postgres_dsn: str, logs: Path) -> AsyncIterator[dict[Manner, Service]]:
    async with AsyncExitStack() as stack:
        found: dict[Manner, Service] = {}
        for manner in get_args(Manner):
            dsn = await stack.enter_async_context(cloned_database(postgres_dsn))
            address = await stack.enter_async_context(collector(manner))
            environment = {
                "RUNWIRE_DATABASE_URL": dsn,
                "RUNWIRE_BUS": "memory",
                "RUNWIRE_TRACE_SAMPLE_RATIO": "1",
                "OTEL_EXPORTER_OTLP_ENDPOINT": address,
            }
            process = Member(f"api-{manner}", logs=logs, environment=environment)
            stack.callback(process.discard)
            found[manner] = Service(process, await stack.enter_async_context(Client(process.url)))
        await asyncio.gather(*(service.process.start() for service in found.values()))
        yield found


async def test_a_dead_collector_slows_neither_runs_nor_appends_nor_the_shutdown(
    postgres_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with services(postgres_dsn, tmp_path) as all_of_them:
        healthy = all_of_them["healthy"]
        dead = {manner: service for manner, service in all_of_them.items() if service is not healthy}
        for _ in range(ROUNDS):  # in turns, so that a busy moment of the machine hits all of them
            for service in all_of_them.values():
                await service.measure()
        figures = {
            manner: (statistics.median(service.runs_s), statistics.median(service.appends_s))
            for manner, service in all_of_them.items()
        }
        for run_s, append_s in figures.values():
            assert run_s <= 2 * figures["healthy"][0] + SLACK_S, figures
            assert append_s <= 2 * figures["healthy"][1] + SLACK_S, figures

        for service in dead.values():
            await eventually(service.has_dropped, within_s=30)
        silent = dead["silent"]
        await silent.flood(FLOOD_RUNS)
        kept_at_most = QUEUE_SPANS + BATCH_SPANS
        assert silent.dropped() >= (FLOOD_RUNS + ROUNDS) * SPANS_A_RUN - kept_at_most, "the queue is bounded"
        assert healthy.dropped() == 0

        took_s = {}
        for manner, service in all_of_them.items():
            began = time.monotonic()
            assert await service.process.terminate() == 0
            took_s[manner] = time.monotonic() - began
        for manner, seconds in took_s.items():
            assert seconds <= took_s["healthy"] + SHUTDOWN_S, (manner, took_s)
        for service in dead.values():
            said = [line["event"] for line in service.process.lines()]
            assert said.count("span_export_failing") == 1, "once, however long it lasts"
            assert [line for line in service.process.lines() if line.get("level") in (None, "error")] == []
    with capsys.disabled():
        shown = {manner: [round(1000 * s, 1) for s in (*figures[manner], took_s[manner])] for manner in figures}
        print(f"\nrun, append, shutdown in ms by collector: {json.dumps(shown)}")  # noqa: T201  # what was measured
