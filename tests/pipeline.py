"""The stages joined by hand on a test's database, for tests that step them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import asyncpg

from runwire.append import AtRest, Change, EventLog
from runwire.append.settings import AppendSettings
from runwire.bus import Published
from runwire.db import Database, Session
from runwire.errors import BusUnavailable
from runwire.model.event import RUN_STARTED, Source
from runwire.model.graph import Agent, Agents
from runwire.model.run import RunState
from runwire.orchestrate import Cancelling, RunControl, StartRequest, Worker
from runwire.orchestrate.settings import OrchestrateSettings
from runwire.publish import Publisher, PublishWorker
from runwire.publish.settings import PublishSettings
from runwire.telemetry.metrics import Metrics
from runwire.telemetry.spans import NO_SPANS, Spans


@dataclass
class RecordingBus:
    """A bus that keeps what it was given; `refuse` says which messages it does not take."""

    messages: list[Published] = field(default_factory=list)
    refuse: Callable[[Published], bool] = lambda _message: False

    async def publish(self, messages: Sequence[Published]) -> None:
        for message in messages:
            if self.refuse(message):
                raise BusUnavailable("refused")
            self.messages.append(message)

    def seqs(self, run_id: str) -> list[int]:
        return [event.seq for m in self.messages if m.run_id == run_id for event in m.events or ()]


class Through:
    """A database with sessions that `wrap` makes from its own."""

    def __init__(self, database: Database, wrap: Callable[[Session], Session]) -> None:
        self._database = database
        self._wrap = wrap

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def session(self, name: str, **settings: Any) -> Session:
        return self._wrap(self._database.session(name, **settings))


@dataclass
class Stages:
    """The stages that a test steps. Commits and wake-ups are noted instead of starting anything."""

    database: Database
    metrics: Metrics
    log: EventLog
    committed: list[str]
    claimable: list[str]
    cancelled: list[str]
    control: RunControl
    agents: Agents

    async def started_run(self, run_id: str, *, agent: str = "elsewhere") -> int:
        """An external run that has begun: its log has RunStarted. Returns the fence."""
        started = await self.control.start(StartRequest(agent=agent, run_id=run_id, external=True))
        assert started.fence is not None
        await self.log.append(
            run_id, [RUN_STARTED], fence=started.fence, source=Source.API, change=Change(RunState.STARTED)
        )
        return started.fence

    def worker(self, *, worker_id: str = "w1", spans: Spans = NO_SPANS, **told: Any) -> Worker:
        """`told`: another database, stores, a beat, or settings. A short lease gets a heartbeat that fits."""
        database = told.pop("database", self.database)
        beside = {name: told.pop(name) for name in ("artifacts", "beat", "desk") if name in told}
        told.setdefault("lease_heartbeat_s", min(10.0, told.get("lease_s", 30.0) / 3))
        return Worker(
            database,
            self.log,
            self.agents,
            metrics=self.metrics,
            spans=spans,
            worker_id=worker_id,
            settings=OrchestrateSettings(**told),
            on_claimable=self.claimable.append,
            **beside,
        )

    def publisher(self, bus: Any, **settings: Any) -> Publisher:
        kind = settings.pop("kind", Publisher)
        database = settings.pop("database", self.database)
        own = {name: settings.pop(name) for name in PublishSettings.model_fields if name in settings}
        chosen = PublishSettings(**own)
        made: Publisher = kind(database, bus, metrics=self.metrics, spans=NO_SPANS, settings=chosen, **settings)
        return made

    async def events(self, run_id: str) -> list[tuple[int, str, str | None]]:
        """(seq, type, name or fn) of everything in the run's log."""
        rows = await self.database.fetch(
            "SELECT seq, type::text, coalesce(name, fn) FROM run_events WHERE run_id = $1 ORDER BY seq", run_id
        )
        return [(row[0], row[1], row[2]) for row in rows]


@asynccontextmanager
async def stages(
    dsn: str, *agents: Agent[Any], sessions: Callable[[Session], Session] = lambda session: session, **log_settings: Any
) -> AsyncIterator[Stages]:
    """The stages on the database at `dsn`, closed at the end. `sessions` wraps the connections of the log."""
    metrics = Metrics({})
    committed: list[str] = []
    claimable: list[str] = []
    cancelled: list[str] = []
    known = Agents(agents)
    own = {name: log_settings.pop(name) for name in AppendSettings.model_fields if name in log_settings}
    async with (
        Database(dsn) as database,
        EventLog(
            cast("Database", Through(database, sessions)),
            metrics=metrics,
            on_committed=committed.extend,
            settings=AppendSettings(**own),
            **log_settings,
        ) as log,
    ):
        at_rest = AtRest(database, metrics=metrics, on_committed=committed.extend)
        control = RunControl(
            database,
            known,
            on_claimable=claimable.append,
            on_cancel=cancelled.append,
            first_fence=lambda: 1,
            cancelling=Cancelling(database, at_rest, metrics=metrics),
        )
        yield Stages(database, metrics, log, committed, claimable, cancelled, control, known)


async def raw(dsn: str) -> asyncpg.Connection[asyncpg.Record]:
    """A plain connection, for looking at the tables or standing in their way."""
    return await asyncpg.connect(dsn)


@asynccontextmanager
async def running(worker: PublishWorker, *, ends_within_s: float = 10) -> AsyncIterator[asyncio.Task[None]]:
    """Inside, the publisher's loop runs; at the end it stops as it does in a process."""
    task = asyncio.create_task(worker.run())
    try:
        yield task
    finally:
        worker.stop()
        await asyncio.wait_for(task, ends_within_s)
