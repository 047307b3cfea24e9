"""DBOS, durable execution as a library: `write_stream` in PostgreSQL, and SSE written by hand over `read_stream`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers import Peer, Started, Throughput
from benchmarks.peers.packages import python_missing, python_module
from benchmarks.processes import free_port, tied
from benchmarks.programs import Conversation, conversation


class Dbos:
    path = "/stream/%s"
    mark = "data: {"

    def __init__(self, port: int, talk: Conversation) -> None:
        self.port = port
        self._talk = talk

    async def runs(self, prefix: str, count: int) -> None:
        await self._do("runs", prefix=prefix, count=count)

    async def count(self, prefix: str, runs: int, *, callers: int, events: int) -> None:
        await self._do("count", prefix=prefix, runs=runs, callers=callers, events=events)

    async def rate(self, prefix: str, runs: int, *, rate: float, seconds: float) -> int:
        return int((await self._do("rate", prefix=prefix, runs=runs, rate=rate, seconds=seconds))["appended"])

    async def throughput(self, prefix: str, runs: int, *, callers: int, seconds: float) -> Throughput | None:
        return Throughput(**await self._do("closed", prefix=prefix, runs=runs, callers=callers, seconds=seconds))

    async def _do(self, what: str, **arguments: Any) -> dict[str, Any]:
        found: dict[str, Any] = await self._talk.ask(json.dumps({"do": what, **arguments}))
        return found


@asynccontextmanager
async def start(_folder: Path, dsn: str) -> AsyncIterator[Started]:
    port = free_port()
    command = tied(*python_module("benchmarks.peers.dbos_app", dsn, str(port)))
    async with conversation("DBOS", *command) as talk:
        await talk.answer()
        yield Dbos(port, talk)


PEER = Peer(
    "DBOS",
    "dbos 3.4.0 (PyPI), `write_stream` in workflows, in a database of the same PostgreSQL, fsync on, a pool of 40, "
    "notifications coalesced over 1 ms instead of its 10; SSE by hand: aiohttp and uvloop, one `read_stream` a run, a "
    "queue a client",
    python_missing,
    start,
)
