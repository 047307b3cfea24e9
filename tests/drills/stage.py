"""A service of real processes under watch: its own database, Prometheus, Alertmanager and pager."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import asyncpg

import runwire
from crash.fleet import Member, free_port
from drills.collector import Collector
from drills.outside import CanaryMember
from drills.pager import Pager, pager
from drills.programs import Alertmanager, Prometheus, alertmanager, prometheus
from drills.rules import BURN_SCALE, SCALE, is_burn_rate, routing, rules
from postgres import SETTINGS, cloned_database
from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres
from runwire.db.migrate import migrate
from runwire.errors import RunwireError

AT_ONCE: Final = 20
"""Runs of the load that go on at a time: a slow machine gets less of it, not ever more."""
TESTS: Final = Path(__file__).parents[1]
AGENTS: Final = ("patient", "standing", "sleepy", "resting", "hasty", "failing")
"""Of drills.agents."""


def references(*agents: str) -> str:
    """The setting that names these agents of drills.agents."""
    return ",".join(f"drills.agents:{name}" for name in agents)


# Settings scaled like the rules' thresholds. They change how often the service acts, not how.
QUICK: Final[Mapping[str, str]] = {
    "RUNWIRE_OBSERVE_S": "0.2",
    "RUNWIRE_PUBLISH_HEARTBEAT_S": "0.1",
    "RUNWIRE_SSE_HEARTBEAT_S": "0.25",
    "RUNWIRE_SSE_RETRY_MS": "200",
    "RUNWIRE_DB_TIMEOUT_S": "2",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Roles by process. `alone`: one Prometheus has all rules; else a second one, faster, has the burn rates.

    Without `burn_rates` nobody has those: they look at hours, which a stage that has just begun has not seen.
    `own_server`: its PostgreSQL is nobody else's, so that it can be stopped. `canary`: one walks rounds all the time.
    """

    processes: Mapping[str, tuple[str, ...]]
    alone: bool = False
    burn_rates: bool = True
    own_server: bool = False
    canary: bool = False
    scale: float = SCALE
    quick: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """A process of the stage, and where Prometheus finds it."""

    member: Member
    admin_port: int
    roles: tuple[str, ...]


@dataclass
class Stage:
    """The parts that a drill works on. A process has one name here, in its log and as `instance` in Prometheus."""

    database: str
    folder: Path
    plan: Plan
    places: dict[str, Place]
    session: aiohttp.ClientSession
    pager: Pager
    alertmanager: Alertmanager
    watching: list[Prometheus]
    clients: contextlib.AsyncExitStack
    collector: Collector
    server: EmbeddedPostgres | None = None
    """The stage's own, where the plan says so; it comes back at the same DSN."""
    without: frozenset[str] = frozenset()
    """Alerts whose rules are left out."""

    @property
    def content(self) -> Path:
        """The content store of the processes."""
        return self.folder / "content"

    @property
    def archive(self) -> Path:
        """Where runs are archived, once there is an archiver."""
        return self.folder / "archive"

    @property
    def prometheus(self) -> Prometheus:
        """The one with every rule but the burn rates."""
        return self.watching[0]

    def watcher(self, alert: str) -> Prometheus:
        """The one that has the rule of that alert."""
        return self.watching[-1] if is_burn_rate(alert) else self.prometheus

    async def firing(self) -> set[str]:
        """Names of the alerts that fire, but for burn rates, whether or not somebody is told of them."""
        alerts = await self.prometheus.alerts()
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}

    def member(self, name: str) -> Member:
        return self.places[name].member

    async def api(self, name: str = "api-0") -> runwire.Client:
        """A client of that process; closed with the stage."""
        return await self.clients.enter_async_context(runwire.Client(self.member(name).url))

    async def add(self, name: str, *roles: str, **environment: str) -> Member:
        """Starts a process and has it watched. `environment` adds to QUICK and wins over it."""
        port = free_port()
        arguments = ["--admin-port", str(port)]
        for role in roles:
            arguments += ["--role", role]
        member = Member(
            name,
            logs=self.folder,
            environment={
                **(QUICK if self.plan.quick else {}),
                "RUNWIRE_BUS": "postgres",
                "RUNWIRE_AGENTS": references(*AGENTS),
                "RUNWIRE_DATABASE_URL": self.database,
                "RUNWIRE_ARCHIVE_URL": str(self.archive),
                "RUNWIRE_CONTENT_URL": str(self.content),
                "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector.url,
                "PYTHONPATH": str(TESTS),
                **environment,
            },
            arguments=arguments,
        )
        self.places[name] = Place(member, port, roles)
        await member.start(within_s=60)
        self.watch(name)
        return member

    async def add_canary(self, name: str, *, api: str = "api-0") -> CanaryMember:
        """Starts a canary of that API process and has it watched."""
        member = CanaryMember(name, url=self.member(api).url, logs=self.folder)
        self.places[name] = Place(member, member.metrics_port, ("canary",))
        await member.start(within_s=60)
        self.watch(name)
        return member

    def watch(self, name: str) -> None:
        place = self.places[name]
        for one in self.watching:
            one.scrape(name, port=place.admin_port, role=place.roles[0])

    async def remove(self, name: str) -> None:
        """As an operator takes a process away: out of the targets, then SIGTERM."""
        for one in self.watching:
            one.forget(name)
        await self.places.pop(name).member.terminate()

    async def sql(self, statement: str, *args: object) -> list[asyncpg.Record]:
        """As from psql: one statement in a session of its own."""
        connection = await asyncpg.connect(self.database, server_settings={"application_name": "psql"})
        try:
            return await connection.fetch(statement, *args)
        finally:
            await connection.close()


@asynccontextmanager
async def stage(folder: Path, *, admin_dsn: str, plan: Plan, without: Iterable[str] = ()) -> AsyncIterator[Stage]:
    """Everything up and scraped. `without`: alerts whose rules are left out. Nothing runs on afterwards."""
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(_own_server()) if plan.own_server else None
        database = own.dsn if own is not None else await stack.enter_async_context(cloned_database(admin_dsn))
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)))
        taker = await stack.enter_async_context(pager())
        configuration = routing(scale=plan.scale, webhook=taker.url)
        alerting = await stack.enter_async_context(
            alertmanager(folder / "alertmanager", session, configuration=configuration)
        )
        collector = Collector()
        await collector.start()
        stack.push_async_callback(collector.stop)
        clients = contextlib.AsyncExitStack()
        made = Stage(
            database, folder, plan, {}, session, taker, alerting, [], clients, collector, own, frozenset(without)
        )
        try:
            await asyncio.gather(*(made.add(name, *roles) for name, roles in plan.processes.items()))
            if plan.canary:
                await made.add_canary("canary-0")
            everything = plan.alone and plan.burn_rates
            rule_sets = [rules(scale=plan.scale, burn_rates=None if everything else False, without=without)]
            if plan.burn_rates and not plan.alone:
                rule_sets.append(rules(scale=BURN_SCALE, burn_rates=True, without=without))
            for n in range(len(rule_sets)):
                server = prometheus(folder / f"prometheus-{n}", session, alertmanager_url=alerting.url)
                made.watching.append(await stack.enter_async_context(server))
            for name in made.places:
                made.watch(name)
            await asyncio.gather(
                *(one.judge_by(document) for one, document in zip(made.watching, rule_sets, strict=True))
            )
            async with clients:
                yield made
        finally:
            for place in made.places.values():
                place.member.discard()


@asynccontextmanager
async def _own_server() -> AsyncIterator[EmbeddedPostgres]:
    """Migrated and empty. May be stopped and started inside the block."""
    with tempfile.TemporaryDirectory(prefix="runwire-drill-") as folder:
        server = EmbeddedPostgres(EmbeddedOptions(Path(folder) / "postgres", settings=SETTINGS))
        try:
            await migrate(await server.start())
            yield server
        finally:
            await server.stop()


@asynccontextmanager
async def load(stage: Stage, *, every_s: float = 0.25, viewers: int = 3) -> AsyncIterator[None]:
    """Inside, golden runs are started all the time and each is watched to its end, and some viewers watch one run."""
    client = await stage.api()

    async def viewer(run_id: str) -> None:
        while True:
            with contextlib.suppress(RunwireError):
                async for _ in client.stream(run_id):
                    pass
            await asyncio.sleep(0.5)

    async def golden(number: int) -> None:
        with contextlib.suppress(RunwireError):
            run = await client.start("golden", input={"delay_ms": 20}, traceparent=_sampled(number))
            async for _ in client.stream(run):
                pass

    async with asyncio.TaskGroup() as everybody:
        waiting = await client.start("patient")
        tasks = [everybody.create_task(viewer(waiting.run_id)) for _ in range(viewers)]

        async def starting() -> None:
            number = 0
            while True:
                if sum(not task.done() for task in tasks) < AT_ONCE:
                    tasks.append(everybody.create_task(golden(number := number + 1)))
                await asyncio.sleep(every_s)

        tasks.append(everybody.create_task(starting()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


def _sampled(number: int) -> str:
    return f"00-{number:032x}-{number:016x}-01"
