"""The programs in C of a benchmark: compiled on the spot, spoken to by lines of JSON."""

from __future__ import annotations

import asyncio
import atexit
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent / "native"
PATIENCE_S = 140
"""A connection that the kernel's queue has no room for is tried again after up to a minute."""


@cache
def program(name: str) -> Path:
    """The path of `native/<name>.c`, compiled for this machine."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("the load generator is written in C: install gcc, or clang as cc")
    folder = tempfile.mkdtemp(prefix="runwire-bench-native-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = Path(folder) / name
    subprocess.run([compiler, "-O2", "-o", str(target), str(SOURCES / f"{name}.c")], check=True)
    return target


class Conversation:
    """A child process that answers commands on stdin by lines on stdout."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self.process = process
        self._name = name

    def say(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")

    async def answer(self) -> Any:
        """The next line, decoded. Exits when the program has ended."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), PATIENCE_S + 30)
        if not line:
            raise SystemExit(f"{self._name} has ended with {await self.process.wait()}")
        return json.loads(line)

    async def ask(self, command: str) -> Any:
        self.say(command)
        return await self.answer()


@asynccontextmanager
async def conversation(name: str, *command: str | Path) -> AsyncIterator[Conversation]:
    """A child process that ends with the block."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 20
    )
    try:
        yield Conversation(process, name)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()


class Crowd:
    """SSE clients, all connected. `connected` says how long that took."""

    def __init__(self, talk: Conversation, connected: dict[str, Any]) -> None:
        self._talk = talk
        self.connected = connected

    async def reset(self) -> None:
        await self._talk.ask("reset")

    def expect(self, deliveries: int) -> asyncio.Task[dict[str, Any]]:
        """The deliveries since the last reset, once there are so many."""
        self._talk.say(f"expect {deliveries}")
        return asyncio.create_task(self._talk.answer())


@asynccontextmanager
async def crowd(
    port: int,
    *,
    clients: int,
    runs: int,
    prefix: str,
    after: int | None = None,
    path: str = "/api/agents/runs/%s/stream",
    mark: str = "data: {",
    key: str | None = None,
) -> AsyncIterator[Crowd]:
    """`clients` streams over runs `prefix`-0 to `prefix`-(runs - 1), with cursor `after` or none.

    With `key`, deliveries are the chunks in the texts that follow it (`benchmarks.chunks`).
    """
    cursor = ([] if after is None else ["-a", str(after)]) + ([] if key is None else ["-k", key])
    arguments = ["-c", str(clients), "-r", str(runs), "-x", prefix, "-p", path, "-m", mark, "-t", str(PATIENCE_S)]
    async with conversation("loadgen", program("loadgen"), "127.0.0.1", str(port), *arguments, *cursor) as talk:
        yield Crowd(talk, await talk.answer())


class Producer:
    """Writes chunks to streams, over connections of its own."""

    def __init__(self, talk: Conversation) -> None:
        self._talk = talk

    async def write(self, *, rate: float, seconds: float, depth: int = 1) -> dict[str, Any]:
        """`rate` is that of each stream; 0: as fast as the server answers. Returns when it has answered all."""
        found: dict[str, Any] = await self._talk.ask(f"write {rate} {seconds} {depth}")
        return found


@asynccontextmanager
async def producer(
    port: int,
    *,
    connections: int,
    streams: int,
    prefix: str,
    path: str | None,
    content_type: str = "text/plain",
    header: str | None = None,
) -> AsyncIterator[Producer]:
    """Of chunks for streams `prefix`-0 to `prefix`-(streams - 1): by POST to `path`, or by XADD without one."""
    arguments = ["-c", str(connections), "-r", str(streams), "-x", prefix]
    arguments += ["-R"] if path is None else ["-p", path, "-y", content_type]
    arguments += [] if header is None else ["-h", header]
    async with conversation("chunker", program("chunker"), "127.0.0.1", str(port), *arguments) as talk:
        yield Producer(talk)


@asynccontextmanager
async def floor(*, frame_bytes: int) -> AsyncIterator[tuple[int, Conversation]]:
    """The port of the C server, and what tells it to emit."""
    async with conversation("floor", program("floor"), "0", str(frame_bytes)) as talk:
        yield int(await talk.answer()), talk


async def post(
    port: int,
    *,
    producers: int,
    runs: int,
    prefix: str,
    batch: int,
    seconds: float,
    path: str = "/api/agents/runs/%s/events",
    body: str | None = None,
    content_type: str = "application/json",
) -> dict[str, Any]:
    """The result of `producers` that append over HTTP, one request at a time each. `body` replaces runwire's events."""
    arguments = ["-c", str(producers), "-r", str(runs), "-x", prefix, "-b", str(batch), "-t", str(seconds), "-p", path]
    arguments += [] if body is None else ["-d", body, "-y", content_type]
    async with conversation("poster", program("poster"), "127.0.0.1", str(port), *arguments) as talk:
        found: dict[str, Any] = await talk.answer()
        return found
