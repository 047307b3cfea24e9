"""The stand of a scenario: a PostgreSQL with fsync on, databases of its own, whole runwire processes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from benchmarks.databases import new_database
from benchmarks.programs import Conversation, conversation


class Serving:
    """A runwire process with every role, under control."""

    def __init__(self, talk: Conversation, ports: dict[str, int]) -> None:
        self._talk = talk
        self.port = ports["port"]
        self.admin_port = ports["admin_port"]

    async def do(self, what: str, **arguments: Any) -> dict[str, Any]:
        found: dict[str, Any] = await self._talk.ask(json.dumps({"do": what, **arguments}))
        return found


@dataclass(slots=True)
class Stand:
    """Given to every round of every scenario."""

    dsn: str
    seconds: float
    smoke: bool = False
    """Only whether it works: small, without other servers."""
    prefixes: int = 0
    databases: dict[str, str] = field(default_factory=dict)

    def prefix(self) -> str:
        """For the runs of one measurement: nobody has appended to them, and no hub knows them."""
        self.prefixes += 1
        return f"m{self.prefixes}"

    async def database(self, name: str) -> str:
        """The DSN of a scenario's own database; the same one in every round."""
        if name not in self.databases:
            self.databases[name] = await new_database(self.dsn, name)
        return self.databases[name]

    @asynccontextmanager
    async def serving(self, name: str, **settings: Any) -> AsyncIterator[Serving]:
        """A process on the database `name`."""
        dsn = await self.database(name)
        environment = {"SETTINGS": json.dumps(settings)}
        os.environ.update(environment)
        async with conversation("serving", sys.executable, "-m", "benchmarks.serving", dsn) as talk:
            yield Serving(talk, await talk.answer())

    async def settle(self, name: str) -> None:
        """Flushes earlier writes to the disk, so that they do not disturb a measurement."""
        connection = await asyncpg.connect(await self.database(name))
        try:
            await connection.execute("CHECKPOINT")
        finally:
            await connection.close()
