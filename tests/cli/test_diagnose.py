"""`runwire run diagnose` says where a run is stuck and what to do."""

from __future__ import annotations

import asyncpg
import pytest

from cli.command import ran_beside
from runwire.client import Client
from runwire.model.event import RUN_STARTED, node_started
from waiting import eventually

Capsys = pytest.CaptureFixture[str]


async def test_a_run_that_ended_well_is_healthy(url: str, capsys: Capsys) -> None:
    await ran_beside(capsys, "run", "start", "--id", "r1", "--follow")
    result = await ran_beside(capsys, "run", "diagnose", "r1")
    assert result.code == 0
    assert result.out.startswith("client_side")
    assert "runwire run tail r1" in result.out
    as_json = await ran_beside(capsys, "run", "diagnose", "r1", "--json")
    assert (as_json.lines[0]["stage"], as_json.lines[0]["healthy"]) == ("client_side", True)
    assert url


async def test_a_stuck_run_is_exit_code_1_with_its_evidence(url: str, database: str, capsys: Capsys) -> None:
    async with Client(url) as client:
        run = await client.start("elsewhere", run_id="r2", external=True)
        await client.append(run, [RUN_STARTED, node_started("Ask")])

        async def published() -> bool:
            return (await client.run("r2")).published_seq == 2

        await eventually(published)
    connection = await asyncpg.connect(database)
    await connection.execute("UPDATE run_events SET ts_us = ts_us - 300000000")
    await connection.close()
    result = await ran_beside(capsys, "run", "diagnose", "r2")
    assert result.code == 1
    assert result.out.startswith("node_hung")
    assert "Ask" in result.out
    assert "runwire run cancel r2" in result.out


@pytest.mark.usefixtures("url")
async def test_a_run_that_is_not_there_is_exit_code_3(capsys: Capsys) -> None:
    assert (await ran_beside(capsys, "run", "diagnose", "nowhere")).code == 3
