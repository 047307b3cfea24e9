"""Processes that write content, as a test holds them: their nodes do what it says, and they can be lost at any time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from runwire.append import EventLog
from runwire.content.part_writer import PartWriter
from runwire.db import Database, Row, Session, Transaction
from runwire.db.connection import Door
from runwire.errors import DatabaseUnavailable, NodeFailed, RunwireError
from runwire.model.graph import END, Agent, Context
from runwire.orchestrate import Worker
from runwire.orchestrate.external_parts import ExternalParts
from runwire.orchestrate.node_parts import NodePart

LONG_S = 3600.0
SCRIBE = "scribe"


class ForgetfulDatabase(Database):
    """Its sessions lose answers to what was committed, by name; once `gone`, they reach nothing any more."""

    def __init__(self, dsn: str, **settings: Any) -> None:
        super().__init__(dsn, **settings)
        self.answers_to_lose: Counter[str] = Counter()
        self.gone = False

    def session(self, name: str, *, settings: Mapping[str, str] | None = None) -> Session:
        return _ForgetfulSession(self, name, self.door(name, timeout_s=10.0, settings=settings))

    async def fetch(self, sql: str, *args: object, within_s: float | None = None) -> list[Row]:
        rows = await super().fetch(sql, *args, within_s=within_s)
        self.lose("pool")
        return rows

    def lose(self, name: str) -> None:
        if self.gone or self.answers_to_lose[name] > 0:
            self.answers_to_lose[name] -= 1
            raise DatabaseUnavailable("the connection broke before the answer came")


class _ForgetfulSession(Session):
    def __init__(self, database: ForgetfulDatabase, name: str, door: Door) -> None:
        super().__init__(door)
        self._owner = database
        self._name = name.split(maxsplit=1)[0]

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        self._check()
        rows = await super().fetch(sql, *args)
        self._owner.lose(self._name)
        return rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        self._check()
        async with super().transaction() as transaction:
            yield transaction
        self._owner.lose(self._name)

    def _check(self) -> None:
        if self._owner.gone:
            raise DatabaseUnavailable("the process is gone")


Command = Callable[["Hand"], Awaitable[Any]]


class Hand:
    """The test's hand in a node at work: it has the node do things, one after the other."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.parts: dict[int, tuple[AbstractAsyncContextManager[Any], NodePart]] = {}
        self._commands: asyncio.Queue[tuple[Command, asyncio.Future[Any]]] = asyncio.Queue()

    async def work(self) -> str:
        while True:
            command, done = await self._commands.get()
            if command in _EXITS:
                done.set_result(None)
                if command is fail:
                    raise NodeFailed("unlucky")
                return END if command is end else "Write"
            try:
                done.set_result(await command(self))
            except RunwireError as error:
                done.set_exception(error)

    async def do(self, command: Command) -> Any:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._commands.put_nowait((command, done))
        return await done

    async def open(self, name: str, media_type: str) -> NodePart:
        block: AbstractAsyncContextManager[Any] = self.context.part(name, media_type=media_type)
        part: NodePart = await block.__aenter__()
        self.parts[part.n] = block, part
        return part


async def fail(_hand: Hand) -> None: ...
async def end(_hand: Hand) -> None: ...
async def again(_hand: Hand) -> None: ...


_EXITS = (fail, end, again)


@dataclass(slots=True)
class Nothing:
    """No input."""


def scribe(hands: dict[str, list[Hand]]) -> Agent[Nothing]:
    """An agent of one node, which does what the test says."""
    agent = Agent(SCRIBE, start="Write", state=Nothing)

    @agent.node(to=("Write", END), timeout_s=LONG_S, retries=50, backoff_s=0.0)
    async def write(context: Context, _state: Nothing) -> str:
        hand = Hand(context)
        hands.setdefault(context.run_id, []).append(hand)
        return await hand.work()

    return agent


@dataclass(slots=True)
class WriterProcess:
    """A process that walks runs and takes the writes of external ones. `walks` are those of its runs."""

    database: ForgetfulDatabase
    log: EventLog
    writer: PartWriter
    worker: Worker
    external: ExternalParts
    stack: AsyncExitStack
    walks: dict[str, asyncio.Task[Any]] = field(default_factory=dict)

    async def die(self) -> None:
        """As by SIGKILL: from here on nothing of it reaches PostgreSQL."""
        self.database.gone = True
        await self.database.__aexit__(None, None, None)
        for walk in self.walks.values():
            walk.cancel()
        await asyncio.gather(*self.walks.values(), return_exceptions=True)
        await self.stack.aclose()
