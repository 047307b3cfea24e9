"""A worker is killed with leases of 30 s, and its run goes on within two seconds. `make takeover` does it 50 times."""

from __future__ import annotations

import contextlib
import math
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from chaos.report import commit, put
from crash.fleet import Fleet, Member, fleet_of
from crash.wire import posted
from waiting import eventually

KILLS: Final = int(os.environ.get("KILLS", "6"))
BEGIN: Final = "<!-- written by make takeover -->"
LEASES: Final = {"RUNWIRE_LEASE_S": "30", "RUNWIRE_LEASE_HEARTBEAT_S": "10"}
P50_S: Final = 1.0
P99_S: Final = 2.0
NEWEST: Final = "SELECT seq, type::text AS type FROM run_events WHERE run_id = $1 ORDER BY seq DESC LIMIT 1"
NEXT: Final = "SELECT ts_us FROM run_events WHERE run_id = $1 AND seq > $2 ORDER BY seq LIMIT 1"
OWNER: Final = "SELECT split_part(lease_owner, ':', 1) FROM runs WHERE run_id = $1"

pytestmark = [pytest.mark.crash, pytest.mark.timeout(120 + 20 * KILLS)]


async def test_a_killed_workers_run_goes_on_elsewhere_within_two_seconds(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(7)
    async with fleet_of(
        ("api+publisher", "worker", "worker"), database=database, logs=tmp_path, environment=LEASES
    ) as fleet:
        took = [await _resumed_after_s(fleet, database, kill, rng=rng) for kill in range(KILLS)]
        assert fleet.errors() == []
    p50, p99 = _quantile(took, 0.5), _quantile(took, 0.99)
    with capsys.disabled():
        print(f"\ntakeover: {KILLS} kills, p50 {p50:.2f} s, p99 {p99:.2f} s, max {max(took):.2f} s")  # noqa: T201
    if os.environ.get("REPORT"):
        put(_table(took), begin=BEGIN)
    assert p50 <= P50_S
    assert p99 <= P99_S


async def test_a_process_that_is_alone_takes_its_runs_up_as_soon_as_it_is_back(tmp_path: Path) -> None:
    service = Member("api-alone", logs=tmp_path, environment={**LEASES, "RUNWIRE_DATA_DIR": str(tmp_path / "data")})
    await service.start()
    try:
        await posted(service.port, "/api/agents/runs", {"agent": "golden", "runId": "r", "input": {"delay_ms": 3000}})
        await eventually(lambda: "node_started" in _said(service), within_s=10)
        service.kill()
        await service.start()
        await eventually(lambda: "run_resumed" in _said(service), within_s=3)
    finally:
        service.discard()


async def test_a_run_that_kills_its_only_worker_is_parked_though_each_restart_comes_after_the_lease(
    tmp_path: Path,
) -> None:
    service = Member(
        "api-alone",
        logs=tmp_path,
        environment={
            "RUNWIRE_DATA_DIR": str(tmp_path / "data"),
            "RUNWIRE_LEASE_S": "0.5",
            "RUNWIRE_LEASE_HEARTBEAT_S": "0.1",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        },
        arguments=("--agents", "chaos.trouble:trouble"),
    )
    try:
        await service.start()
        poison = {"agent": "trouble", "runId": "poison", "input": {"way": "crash"}}
        with contextlib.suppress(OSError, EOFError):
            await posted(service.port, "/api/agents/runs", poison)
        for _ in range(3):
            await eventually(lambda: not service.running, within_s=30)
            await service.start()
        await eventually(lambda: "run_finished" in _said(service), within_s=30)
        assert service.running
        [finished] = [line for line in service.lines() if line.get("event") == "run_finished"]
        assert (finished["run_id"], finished["outcome"], finished["error_code"]) == ("poison", "failed", "worker_lost")
        assert _said(service).count("worker_lost") == 3
    finally:
        service.discard()


def _said(service: Member) -> list[str]:
    return [str(line.get("event")) for line in service.lines()]


async def _resumed_after_s(fleet: Fleet, dsn: str, kill: int, *, rng: random.Random) -> float:
    """Seconds from SIGKILL of the worker of a run to the run's next event; the worker is started again."""
    run_id = f"takeover-{kill}"
    status, _ = await posted(
        fleet.ports[0], "/api/agents/runs", {"agent": "golden", "runId": run_id, "input": {"delay_ms": 4000}}
    )
    assert status == 202
    connection = await asyncpg.connect(dsn)
    try:

        async def in_a_node() -> bool:
            row = await connection.fetchrow(NEWEST, run_id)
            return row is not None and row["type"] in ("NodeStarted", "DebugTrace")

        await eventually(in_a_node, within_s=10)
        owner = await connection.fetchval(OWNER, run_id)
        [victim] = [member for member in fleet.members if member.name == owner]
        until = time.monotonic() + rng.uniform(0, 0.5)  # anywhere in the period at which others look
        await eventually(lambda: time.monotonic() >= until)
        victim.kill()
        killed_at = time.time()
        # Appends of it that were under way are done: whatever comes now is another's.
        seq = await connection.fetchval("SELECT max(seq) FROM run_events WHERE run_id = $1", run_id)
        ts_us = await eventually(lambda: connection.fetchval(NEXT, run_id, seq), within_s=60)
        await victim.start()
        return float(ts_us) / 1e6 - killed_at
    finally:
        await connection.close()


def _quantile(values: Sequence[float], q: float) -> float:
    return sorted(values)[math.ceil(q * len(values)) - 1]


def _table(took: Sequence[float]) -> str:
    told = (
        f"Commit `{commit()}`: SIGKILL of the worker that walks a run, {len(took)} times, with leases of 30 s. "
        "Seconds until the run's next event, by another worker:"
    )
    figures = [_quantile(took, q) for q in (0.5, 0.9, 0.99)] + [max(took)]
    row = " | ".join(f"{seconds:.2f}" for seconds in figures)
    return "\n".join((told, "", "| p50 | p90 | p99 | longest |", "|---|---|---|---|", f"| {row} |"))
