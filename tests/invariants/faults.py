"""The world's malice: a bus that refuses, crashes its caller, loses and repeats; a database whose answers get lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from runwire.bus import BusReader, BusWriter, Deliver, Published
from runwire.db import Database, Row, Session
from runwire.db.connection import Door
from runwire.errors import BusUnavailable, DatabaseUnavailable


class PublisherCrashed(BaseException):  # like SystemExit, nothing may catch it
    """The process that published is gone: not an error anybody handles."""


class FaultyBus:
    """Passes messages on to a real bus and tells `on_taken` of each; refuses, and crashes, as it is told."""

    def __init__(self, bus: BusWriter, *, on_taken: Callable[[Published], None]) -> None:
        self.refusals = 0
        """How many batches it will not take, whoever is in them."""
        self.refused_runs: set[str] = set()
        self.crash_after_taking = False
        self.held: asyncio.Event | None = None
        """When set, the next batch is taken only after this event; `entered` says that it has come."""
        self.entered = asyncio.Event()
        self._bus = bus
        self._on_taken = on_taken

    @property
    def refuses_some(self) -> bool:
        return self.refusals > 0 or bool(self.refused_runs)

    def recover(self) -> None:
        self.refusals = 0
        self.refused_runs.clear()

    async def publish(self, messages: Sequence[Published]) -> None:
        held, self.held = self.held, None
        if held is not None:
            self.entered.set()
            await held.wait()
        taken = []
        refuses_all = self.refusals > 0
        self.refusals = max(0, self.refusals - 1)
        for message in messages:
            if refuses_all or message.run_id in self.refused_runs:
                break
            taken.append(message)
        # Noted first: a subscriber of a bus within this process has it before `publish` returns.
        for message in taken:
            self._on_taken(message)
        await self._bus.publish(taken)
        if self.crash_after_taking:
            self.crash_after_taking = False
            raise PublisherCrashed
        if len(taken) < len(messages):
            raise BusUnavailable("refused")


class LossyReader:
    """Subscriptions to a real bus whose messages get lost or come again later, as the bus's contract allows."""

    def __init__(self, bus: BusReader, *, on_defect: Callable[[str], None]) -> None:
        """`on_defect` hears of subscribers that raise: a bus only logs it."""
        self.losses = 0
        """How many of the next messages it loses."""
        self._bus = bus
        self._on_defect = on_defect
        self._seen: dict[str, list[Published]] = {}
        self._subscribers: dict[str, list[Deliver]] = {}

    @asynccontextmanager
    async def subscribe(self, run_id: str, deliver: Deliver) -> AsyncIterator[None]:
        def pass_on(message: Published) -> None:
            self._seen.setdefault(run_id, []).append(message)
            if self.losses:
                self.losses -= 1
            else:
                self._tell(deliver, message)

        subscribers = self._subscribers.setdefault(run_id, [])
        subscribers.append(deliver)
        try:
            async with self._bus.subscribe(run_id, pass_on):
                yield
        finally:
            subscribers.remove(deliver)

    def repeat(self, run_id: str, which: int) -> None:
        """Delivers one of the messages that passed here before, lost or not, once more."""
        seen = self._seen.get(run_id)
        if seen:
            for deliver in tuple(self._subscribers.get(run_id, ())):
                self._tell(deliver, seen[which % len(seen)])

    def _tell(self, deliver: Deliver, message: Published) -> None:
        try:
            deliver(message)
        except Exception as error:
            self._on_defect(f"{error!r} from a subscriber told of {message}")
            raise


class ForgetfulDatabase(Database):
    """Its sessions can lose the answer to a statement that was committed."""

    def __init__(self, dsn: str, **settings: Any) -> None:
        super().__init__(dsn, **settings)
        self.answers_to_lose = 0

    def session(self, name: str, *, settings: Mapping[str, str] | None = None) -> Session:
        return _ForgetfulSession(self, self.door(name, timeout_s=10.0, settings=settings))


class _ForgetfulSession(Session):
    def __init__(self, database: ForgetfulDatabase, door: Door) -> None:
        super().__init__(door)
        self._owner = database

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        rows = await super().fetch(sql, *args)
        if self._owner.answers_to_lose:
            self._owner.answers_to_lose -= 1
            raise DatabaseUnavailable("the connection broke before the answer came")
        return rows
