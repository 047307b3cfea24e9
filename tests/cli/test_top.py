"""`runwire top` shows every process, every agent with open runs, and what waits."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from cli.command import ran, ran_beside, started
from crash.fleet import free_port
from pipeline import raw
from runwire.assembly import Assembly
from runwire.cli.top_metrics import p95
from runwire.client import Client
from runwire.settings import Role, Settings
from waiting import eventually

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
async def service(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Assembly]:
    """All roles, in this process; the database is the one that commands take."""
    monkeypatch.setenv("DATABASE_URL", database)
    settings = Settings(database_url=database, bus="memory", port=0, admin_port=0, drain_s=2.0)
    with capture_logs():
        async with Assembly(settings) as made:
            yield made


async def test_it_shows_processes_agents_and_listeners(service: Assembly, capsys: Capsys) -> None:
    async with Client(service.url) as client:
        run = await client.start("canary", run_id="r1")

        async def waits() -> bool:
            return (await client.run(run)).state == "waiting"

        await eventually(waits, within_s=30)
    result = await ran_beside(capsys, "top", "--once", "--json", "--metrics", service.admin_url)
    assert result.code == 0, result.err
    (seen,) = result.lines
    (process,) = seen["processes"]
    assert (process["pid"], process["alive"], process["slots"]) == (os.getpid(), True, 200)
    assert {"api", "worker", "publisher", "observer"} <= set(process["roles"])
    (agent,) = seen["agents"]
    assert (agent["agent"], agent["waiting"], agent["unclaimed"], agent["workers"]) == ("canary", 1, 0, 1)
    (listener,) = seen["listeners"]
    assert (listener["problem"], listener["streams"]) == (None, 0)
    assert seen["publishers"] == 1


async def test_people_get_tables(service: Assembly, capsys: Capsys) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    result = await ran_beside(capsys, "top", "--once", "--metrics", nowhere)
    assert result.code == 0, result.err
    assert "1 of 1 processes alive" in result.out
    assert f":{os.getpid()}" in result.out
    assert f"{nowhere}/metrics  Connection refused" in " ".join(result.out.split("\n")).replace("   ", "  ")


async def test_runs_of_an_agent_that_no_worker_knows_stand_out(
    database: str, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    connection = await raw(database)
    try:
        await connection.execute(
            "INSERT INTO runs (run_id, agent, request_hash, input, created_at) "
            "VALUES ('r', 'lost', '', '', now() - interval '1 hour')"
        )
        await connection.execute(
            "INSERT INTO processes (process_id, host, pid, version, roles, agents, slots, seen_at) "
            "VALUES ('h:1:a', 'h', 1, '1', '{worker}', '{lost}', 5, now() - interval '1 minute')"
        )
    finally:
        await connection.close()
    result = await ran_beside(capsys, "top", "--once", "--json")
    (seen,) = result.lines
    assert [one["alive"] for one in seen["processes"]] == [False]
    (agent,) = seen["agents"]
    assert (agent["agent"], agent["pending"], agent["unclaimed"], agent["workers"]) == ("lost", 1, 1, 0)
    assert agent["oldest_s"] >= 3600


async def test_a_process_is_seen_while_it_lives_and_gone_when_it_stops(database: str) -> None:
    settings = Settings(database_url=database, bus="postgres", port=0, admin_port=0, drain_s=0, roles=(Role.OBSERVER,))
    connection = await raw(database)
    try:
        with capture_logs():
            async with Assembly(settings):

                async def seen() -> list[str]:
                    rows = await connection.fetch("SELECT roles FROM processes")
                    return [role for row in rows for role in row["roles"]]

                assert await eventually(seen, within_s=20) == ["observer"]
        assert await seen() == []
    finally:
        await connection.close()


async def test_it_looks_again_and_again_until_it_is_told_to_end(service: Assembly, database: str) -> None:
    async with started("top", "--json", "--every", "0.2", DATABASE_URL=database) as looking:
        for _ in range(2):
            assert '"processes"' in await looking.line()
        looking.process.send_signal(signal.SIGINT)
        assert (await looking.ended()).code == 130


def test_a_database_that_is_away_is_one_sentence(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://runwire@127.0.0.1:{free_port()}/runwire")
    result = ran(capsys, "top", "--once")
    assert (result.code, result.out) == (4, "")
    assert len(result.err.splitlines()) == 1


def test_a_listener_must_be_http(capsys: Capsys) -> None:
    result = ran(capsys, "top", "--once", "--metrics", "file:///etc/passwd")
    assert result.code == 2
    assert "--metrics: file:///etc/passwd is no http or https URL" in result.err


@pytest.mark.parametrize(
    ("buckets", "quantile"),
    [
        ({}, None),
        ({0.1: 0, math.inf: 0}, None),
        ({0.1: 94, 0.5: 95, math.inf: 100}, 0.5),
        ({0.1: 1, math.inf: 100}, math.inf),
    ],
)
def test_a_quantile_is_the_edge_of_its_bucket(buckets: dict[float, float], quantile: float | None) -> None:
    assert p95(buckets) == quantile
