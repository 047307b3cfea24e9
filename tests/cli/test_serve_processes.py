"""`runwire serve --processes`: several processes on one port, kept running, and ended together."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.command import started
from runwire import Client
from runwire.cli import run_command
from waiting import eventually

pytestmark = pytest.mark.crash


async def test_several_processes_serve_one_port_and_what_dies_comes_back(database: str) -> None:
    serve = ("serve", "--port", "0", "--admin-port", "0", "--processes", "2")
    async with started(*serve, DATABASE_URL=database) as serving:
        both = [await serving.logged("server_started") for _ in range(2)]
        assert both[0]["port"] == both[1]["port"]
        assert both[0]["admin_port"] != both[1]["admin_port"]
        assert both[0]["bus"] == "postgres"
        url = f"http://127.0.0.1:{both[0]['port']}"
        async with Client(url) as client:
            for _ in range(4):
                run = await client.start("golden")
                assert [event.seq async for event in client.stream(run)] == list(range(1, 14))
        children = [int(pid) for pid in _children(serving.process.pid)]
        assert len(children) == 2
        os.kill(children[0], signal.SIGKILL)
        ended = await serving.logged("process_ended")
        assert (ended["code"], ended["again_in_s"]) == (-signal.SIGKILL, 0.5)
        again = await serving.logged("server_started")
        assert again["port"] == both[0]["port"]
        async with Client(url) as client:
            assert len([event async for event in client.stream(await client.start("golden"))]) == 13
        serving.process.terminate()
        result = await serving.ended(within_s=60)
        assert (result.code, result.err) == (0, "")
        assert [line["event"] for line in result.lines].count("server_stopped") == 2


async def test_processes_that_answer_nobody_are_replaced(database: str) -> None:
    """One stands still. Another has no descriptor left, so it can accept no connection, though its event loop runs."""
    serve = ("serve", "--port", "0", "--admin-port", "0", "--processes", "3")
    async with started(*serve, DATABASE_URL=database) as serving:
        first = [await serving.logged("server_started") for _ in range(3)]
        stands, full, _ = _children(serving.process.pid)
        os.kill(stands, signal.SIGSTOP)
        _, most = resource.prlimit(full, resource.RLIMIT_NOFILE)
        resource.prlimit(full, resource.RLIMIT_NOFILE, (3, most))
        said: list[dict[str, Any]] = []
        while [line["event"] for line in said].count("server_started") < 2:
            said.append(json.loads(await serving.line(within_s=60)))
        assert {line["process"] for line in said if line["event"] == "process_deaf"} == {0, 1}
        again = said[-1]
        assert again["port"] == first[0]["port"]
        async with httpx.AsyncClient(timeout=5) as http:
            scrape = (await http.get(f"http://127.0.0.1:{again['admin_port']}/metrics")).text
            assert "runwire_process_replacements_total 1.0" in scrape
            for _ in range(30):  # each a connection of its own: none is given to a process that does not answer
                async with httpx.AsyncClient(timeout=20) as fresh:
                    assert (await fresh.get(f"http://127.0.0.1:{again['port']}/openapi.json")).status_code == 200


async def test_when_the_supervisor_is_killed_nothing_is_left_running(database: str) -> None:
    serve = ("serve", "--port", "0", "--admin-port", "0", "--processes", "2", "--role", "observer")
    async with started(*serve, DATABASE_URL=database) as serving:
        for _ in range(2):
            await serving.logged("server_started")
        children = _children(serving.process.pid)
        serving.process.kill()
        await eventually(lambda: not any(_runs(pid) for pid in children), within_s=30)


async def test_what_no_process_could_run_with_is_refused_once(database: str) -> None:
    serve = ("serve", "--port", "0", "--admin-port", "0", "--processes", "2")
    async with started(*serve, "--agents", "no_such_module:x", DATABASE_URL=database) as serving:
        result = await serving.ended(within_s=60)
    assert result.code == 2
    assert "no_such_module" in result.err


async def test_a_port_that_others_listen_on_is_not_shared_with_them(database: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with started("serve", "--port", port, "--processes", "2", DATABASE_URL=database) as serving:
            result = await serving.ended(within_s=60)
    assert result.code == 1
    assert f"127.0.0.1:{port} is in use" in result.err


def test_the_memory_bus_is_for_one_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RUNWIRE_BUS", "memory")
    assert run_command(("serve", "--processes", "2")) == 2
    assert "memory bus works in one process only" in capsys.readouterr().err


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
