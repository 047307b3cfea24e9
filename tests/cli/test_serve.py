"""`runwire serve` as a real process: it says where it is, drains when told, and explains why it cannot start."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import httpx
import pytest

from cli.command import started
from pipeline import raw

pytestmark = pytest.mark.crash
OF_A_SLOW_MACHINE = ("loop_blocked", "loop_freed")
SERVE = ("serve", "--port", "0", "--admin-port", "0")


async def test_it_says_first_which_ports_it_took_and_is_ready_there(database: str) -> None:
    async with started(*SERVE, DATABASE_URL=database) as serving, httpx.AsyncClient() as http:
        said = json.loads(await serving.line())
        while said["event"] in OF_A_SLOW_MACHINE:
            said = json.loads(await serving.line())
        assert said["event"] == "server_started"
        ready = await http.get(f"http://127.0.0.1:{said['admin_port']}/readyz")
        assert (ready.status_code, ready.json()["apiPort"]) == (200, said["port"])
        assert (await http.get(f"http://127.0.0.1:{said['port']}/api/agents/runs")).json()["runs"] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_drains_and_ends_with_0_when_told(database: str, number: int) -> None:
    async with started(*SERVE, DATABASE_URL=database) as serving:
        await serving.logged("server_started")
        serving.process.send_signal(number)
        result = await serving.ended()
    assert (result.code, result.err) == (0, "")
    said = [line["event"] for line in result.lines]
    assert "server_draining" in said
    assert said[-1] == "server_stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_start_that_waits_for_another_s_migration_says_so_and_ends_when_told(
    database: str, number: int
) -> None:
    other = await raw(database)
    await other.execute("SELECT pg_advisory_lock($1)", 0x72756E77697265)
    await other.execute("DELETE FROM runwire_migrations WHERE name = (SELECT max(name) FROM runwire_migrations)")
    async with started(*SERVE, DATABASE_URL=database) as serving:
        said = await serving.logged("migration_waiting")
        assert f"session {other.get_server_pid()}" in str(said["why"])
        serving.process.send_signal(number)
        result = await serving.ended(within_s=10)
    assert (result.code, result.err) == (0, "")
    await other.close()


async def test_a_second_ctrl_c_ends_it_at_once(database: str) -> None:
    async with started(*SERVE, DATABASE_URL=database, RUNWIRE_DRAIN_S="60") as serving, httpx.AsyncClient() as http:
        said = await serving.logged("server_started")
        body = {"input": {"delay_ms": 50_000}}
        assert (await http.post(f"http://127.0.0.1:{said['port']}/api/agents/runs", json=body)).status_code == 202
        await serving.logged("node_started")
        serving.process.send_signal(signal.SIGINT)
        await serving.logged("server_draining")
        serving.process.send_signal(signal.SIGINT)
        assert (await serving.ended(within_s=10)).code == 130


async def test_without_a_database_url_it_brings_its_own_postgresql(tmp_path: Path) -> None:
    async with started(*SERVE, "--data-dir", str(tmp_path / "data")) as serving:
        assert (await serving.logged("server_started"))["database"] == "embedded"
        serving.process.send_signal(signal.SIGTERM)
        assert (await serving.ended()).code == 0


async def test_a_port_that_is_taken_is_one_sentence_and_exit_code_1(database: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with started("serve", "--port", str(port), "--admin-port", "0", DATABASE_URL=database) as serving:
            result = await serving.ended()
    assert result.code == 1
    assert result.err.startswith(f"runwire: 127.0.0.1:{port} is in use")
    assert len(result.err.splitlines()) == 1


async def test_a_database_that_is_down_is_one_sentence_and_exit_code_4() -> None:
    async with started(*SERVE, DATABASE_URL="postgresql://x:secret@127.0.0.1:1/y") as serving:
        result = await serving.ended()
    assert (result.code, result.out) == (4, "")
    assert result.err == "runwire: cannot connect to PostgreSQL: Connection refused\n"


async def test_an_agent_that_cannot_be_loaded_is_named_and_exit_code_2(database: str) -> None:
    async with started(*SERVE, "--agents", "no.such:agent", DATABASE_URL=database) as serving:
        result = await serving.ended()
    assert result.code == 2
    assert "no.such:agent" in result.err
    assert len(result.err.splitlines()) == 1
