"""The service serves whatever its standard streams are: standing still, full, gone or closed from the start."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import httpx
import pytest

from cli.command import bare_environment
from crash.fleet import free_port
from tied import tied
from waiting import eventually

pytestmark = pytest.mark.crash
ENDS_WITHIN_S: Final = 20.0
RUNS: Final = 8  # each says twenty lines and more at debug, and a pipe of 4 KiB takes sixteen


@dataclass(frozen=True, slots=True)
class Serving:
    process: asyncio.subprocess.Process
    http: httpx.AsyncClient
    port: int
    admin_port: int

    async def is_ready(self, admin_port: int | None = None) -> bool:
        try:
            answer = await self.http.get(f"http://127.0.0.1:{admin_port or self.admin_port}/readyz")
        except httpx.ConnectError:
            assert self.process.returncode is None
            return False
        return answer.status_code == 200

    async def finishes_a_run(self, agent: str = "golden") -> None:
        api = f"http://127.0.0.1:{self.port}/api/agents/runs"
        run = (await self.http.post(api, json={"agent": agent})).json()["runId"]

        async def finished() -> bool:
            return bool((await self.http.get(f"{api}/{run}")).json()["state"] == "finished")

        await eventually(finished, within_s=20)

    async def lines_dropped(self) -> float:
        metrics = (await self.http.get(f"http://127.0.0.1:{self.admin_port}/metrics")).text
        return float(metrics.partition('runwire_telemetry_dropped_total{signal="logs"} ')[2].partition("\n")[0])

    async def drains(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(self.process.wait(), ENDS_WITHIN_S) == 0


@asynccontextmanager
async def serving(
    database: str,
    *args: str,
    output: int | None = None,
    redirected: str = "",
    first: str = ":",
    environment: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Serving]:
    """`runwire serve` with its output going to the descriptor, or where the shell's words say; ready.

    `first` is what the shell does before.
    """
    port, admin_port = free_port(), free_port()
    settings = {
        "DATABASE_URL": database,
        "RUNWIRE_PORT": str(port),
        "RUNWIRE_ADMIN_PORT": str(admin_port),
        "RUNWIRE_LOG_LEVEL": "debug",
    }
    process = await asyncio.create_subprocess_exec(
        *tied(
            [
                "sh",
                "-c",
                f'{first}; exec "$@" {redirected}',
                "sh",
                sys.executable,
                "-m",
                "runwire",
                "serve",
                *args,
            ]
        ),
        stdout=output,
        stderr=output,
        env={**bare_environment(), **settings, **environment},
    )
    try:
        async with httpx.AsyncClient(timeout=5) as http:
            served = Serving(process, http, port, admin_port)
            await eventually(served.is_ready, within_s=30)
            yield served
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
def unread() -> Iterator[int]:
    """A small pipe that somebody holds open and does not read."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    yield writing
    os.close(reading)
    os.close(writing)


async def test_a_reader_that_stands_still_holds_nothing_up(database: str, unread: int) -> None:
    async with serving(database, output=unread) as served:
        for _ in range(RUNS):
            await served.finishes_a_run()
        assert await served.is_ready()
        await served.drains()


async def test_nor_does_it_where_several_processes_write_to_it(database: str, unread: int) -> None:
    async with serving(database, "--processes", "2", output=unread) as served:
        await eventually(lambda: served.is_ready(served.admin_port + 1), within_s=30)
        for _ in range(RUNS):
            await served.finishes_a_run()
        assert await served.is_ready(served.admin_port)
        assert await served.is_ready(served.admin_port + 1)
        await served.drains()


async def test_a_print_in_a_node_waits_for_no_reader_either(database: str, unread: int) -> None:
    agent = ("--agents", "cli.talkative:talkative")
    async with serving(
        database, *agent, output=unread, environment={"PYTHONPATH": str(Path(__file__).parents[1])}
    ) as served:
        await served.finishes_a_run("talkative")
        assert await served.is_ready()


async def test_lines_that_a_full_disk_refuses_are_counted(database: str) -> None:
    async with serving(database, redirected=">/dev/full 2>&1") as served:
        await served.finishes_a_run()
        await eventually(served.lines_dropped)
        await served.drains()


async def test_a_reader_that_is_gone_ends_nothing(database: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        async with serving(database, output=writing) as served:
            await served.finishes_a_run()
            await eventually(served.lines_dropped)
            await served.drains()
    finally:
        os.close(writing)


@pytest.mark.parametrize("redirected", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
async def test_streams_that_are_closed_are_not_missed(database: str, redirected: str) -> None:
    async with serving(database, redirected=redirected) as served:
        await served.finishes_a_run()
        await served.drains()
