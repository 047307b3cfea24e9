"""Other programs of a benchmark: found or installed, started on free ports, ended with whoever started them."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import asyncpg

SYSTEM = Path(__file__).parents[1] / "scripts" / "system-programs.sh"
START_S = 30


def tied(*command: str | Path) -> list[str]:
    """The command line of a program that ends when this process does, however that comes about."""
    setpriv = shutil.which("setpriv")
    return [*([setpriv, "--pdeathsig", "TERM"] if setpriv else []), *map(str, command)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def listening(port: int, *command: str | Path, log: Path) -> AsyncIterator[None]:
    """A program, from when it listens on `port` until the end of the block."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*tied(*command), stdout=output, stderr=output)
        try:
            await asyncio.wait_for(_listens(process, port, log), START_S)
            yield
        finally:
            if process.returncode is None:
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), START_S)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _listens(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if process.returncode is not None:
                raise SystemExit(f"a peer has ended with {process.returncode}:\n{log.read_text()}") from None
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


@cache
def system_program(name: str, *, package: str) -> str | None:
    """A sentence about the missing program, or None when it exists or could be installed."""
    if _found(name) is None:
        subprocess.run(["sh", str(SYSTEM), *package.split()], check=False)
    return None if _found(name) else f"`{name}` is not installed: apt-get install {package}"


def found(name: str) -> str:
    path = _found(name)
    assert path is not None
    return path


def _found(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


async def server_pid(dsn: str) -> int:
    """The process id of a PostgreSQL server on this machine."""
    connection = await asyncpg.connect(dsn)
    try:
        backend = await connection.fetchval("SELECT pg_backend_pid()")
        return int(_fields(backend)[1])
    finally:
        await connection.close()


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and its children, those that have ended among them."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    ticks = sum(int(field) for one in (pid, *children) for field in _fields(one)[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def _fields(pid: int) -> list[str]:
    """Of /proc/PID/stat, after the name: state, parent, ... Zeros for one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["0"] * 15
