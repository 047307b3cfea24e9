"""Engines that walk runs of five durable steps, each behind the same interface, started and stopped here."""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from benchmarks.peers.packages import npm_packages, python_missing, python_module
from benchmarks.processes import free_port, listening, tied
from benchmarks.programs import Conversation, conversation, post

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Walked:
    """Runs of a closed loop. `cpu_s` is of every process that walks, without the database's."""

    runs: int
    s: float
    p50_ms: float
    p99_ms: float
    cpu_s: float


class Walker(Protocol):
    async def walk(self, *, at_once: int, seconds: float) -> Walked:
        """Walks runs to their ends, `at_once` of them; a caller starts its next run when its last has ended."""


@dataclass(frozen=True, slots=True)
class WalkPeer:
    """As `Peer`."""

    name: str
    settings: str
    install: Callable[[], str | None]
    start: Callable[[Path, str], AbstractAsyncContextManager[Walker]]


@dataclass(slots=True)
class Library:
    """A program of ours that calls a library in its own process."""

    talk: Conversation

    async def walk(self, *, at_once: int, seconds: float) -> Walked:
        return Walked(**await self.talk.ask(json.dumps({"at_once": at_once, "seconds": seconds})))


@asynccontextmanager
async def _library(module: str, _folder: Path, dsn: str) -> AsyncIterator[Walker]:
    async with conversation(module, *tied(*python_module(f"benchmarks.peers.{module}", dsn))) as talk:
        await talk.answer()
        yield Library(talk)


@dataclass(slots=True)
class Restate:
    port: int
    pids: tuple[int, ...]

    async def walk(self, *, at_once: int, seconds: float) -> Walked:
        before = _cpu_s(self.pids)
        found = await post(
            self.port,
            producers=at_once,
            runs=at_once,
            prefix="walk",
            batch=1,
            seconds=seconds,
            path="/walk/golden",
            body="{}",
        )
        cpu_s = _cpu_s(self.pids) - before
        return Walked(found["requests"], found["s"], found["p50_ms"], found["p99_ms"], cpu_s)


def _restate_missing() -> str | None:
    if (why := python_missing()) is not None:
        return why
    folder = npm_packages()
    return folder if isinstance(folder, str) else None


@asynccontextmanager
async def _restate(folder: Path, _dsn: str) -> AsyncIterator[Walker]:
    """The server with its own log, and the program of its SDK."""
    packages = npm_packages()
    assert isinstance(packages, Path)
    server = packages / "node_modules" / "@restatedev" / "restate-server-linux-x64" / "bin" / "restate-server"
    ingress, admin, node, sdk = (free_port() for _ in range(4))
    environment = {
        "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
        "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
        "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
        "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{node}",
        "RESTATE_DISABLE_TELEMETRY": "true",
    }
    variables = [f"{name}={value}" for name, value in environment.items()]
    async with AsyncExitStack() as stack:
        command = python_module("benchmarks.peers.walk_restate", str(sdk))
        await stack.enter_async_context(listening(sdk, *command, log=folder / "sdk.log"))
        command = ["env", *variables, server, "--base-dir", folder / "data", "--node-name", "n1"]
        await stack.enter_async_context(listening(ingress, *command, log=folder / "server.log"))
        await _registered(admin, sdk, folder / "server.log")
        yield Restate(ingress, tuple(pid for port in (sdk, ingress) if (pid := _listener(port)) is not None))


async def _registered(admin: int, sdk: int, log: Path) -> None:
    """Returns when the server knows the program of the SDK. Its admin listener may come up after the others."""
    body = json.dumps({"uri": f"http://127.0.0.1:{sdk}"}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{admin}/deployments", data=body, headers={"Content-Type": "application/json"}
    )
    until = time.monotonic() + 30
    while True:
        try:
            await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=10).read())  # noqa: S310  # ours
        except OSError as error:
            if time.monotonic() > until:
                raise SystemExit(
                    f"Restate does not take its deployment ({error}):\n{log.read_text()[-2000:]}"
                ) from None
            await asyncio.sleep(0.2)
        else:
            return


def _listener(port: int) -> int | None:
    """The process that listens on the port."""
    wanted = f":{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening_there = [line.split() for line in lines if line.split()[1].endswith(wanted) and line.split()[3] == "0A"]
    sockets = {f"socket:[{fields[9]}]" for fields in listening_there}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(fd.readlink()) in sockets for fd in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:
            continue
    return None


def _cpu_s(pids: tuple[int, ...]) -> float:
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(found[11]) + int(found[12]) for found in fields) / _TICKS_A_SECOND


WALK_PEERS: tuple[WalkPeer, ...] = (
    WalkPeer(
        "LangGraph",
        'langgraph 1.2.24 with AsyncPostgresSaver (langgraph-checkpoint-postgres 3.2.0), `durability="sync"`, a pool '
        "of 32 connections to a database of the same PostgreSQL, uvloop; `ainvoke` is called in its own process, "
        "without HTTP and without a client that watches",
        python_missing,
        partial(_library, "walk_langgraph"),
    ),
    WalkPeer(
        "DBOS",
        "dbos 3.4.0, an async workflow of five async steps, a pool of 40 connections to a database of the same "
        "PostgreSQL, uvloop; the workflow is called in its own process, without HTTP and without a client that watches",
        python_missing,
        partial(_library, "walk_dbos"),
    ),
    WalkPeer(
        "Restate",
        "restate-server 1.7.12 of npm with its own log on the same disk, restate-sdk 1.3.0 under hypercorn with "
        "uvloop; a call over HTTP to its ingress, answered at the end of the run, without a client that watches",
        _restate_missing,
        _restate,
    ),
)
