"""A campaign: load, faults one after the other, then quiet; and what must be true of it all."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from chaos import content
from chaos.clock import Clock
from chaos.faults import FAULTS, NO_DATABASE, Scene
from chaos.intruders import Intruders, Probes
from chaos.load import Caller, Load, external_run, golden_run
from chaos.postgres import Cluster, cluster
from chaos.proxy import proxying
from chaos.tenants import RUNS, Realm
from crash.fleet import Fleet, Member
from crash.stored import stored_events
from crash.subscriber import Subscriber
from runwire.db import load_sql
from runwire.db.migrate import migrate
from runwire.model.run import DEFAULT_TENANT
from waiting import eventually

PLACES = (
    *("api-0", "api-1", "worker-0", "worker-1", "publisher-0", "publisher-1"),
    *("observer-0", "archiver-0", "collector-0"),
)
ENVIRONMENT = {
    "RUNWIRE_BUS": "postgres",
    "RUNWIRE_LEASE_S": "3",
    "RUNWIRE_LEASE_HEARTBEAT_S": "0.8",
    "RUNWIRE_SSE_RETRY_MS": "200",
    "RUNWIRE_SSE_SLOW_S": "3",
    "RUNWIRE_DB_TIMEOUT_S": "4",
    "RUNWIRE_DB_POOL_SIZE": "4",
    "RUNWIRE_OBSERVE_S": "2",
    "RUNWIRE_ARCHIVE_AFTER_DAYS": "1",
    "RUNWIRE_ARCHIVE_PERIOD_S": "1",
    "RUNWIRE_CONTENT_COLLECT_S": "1",
    "PYTHONPATH": str(Path(__file__).parents[1]),
}
AGENTS = tuple(word for agent in ("chaos.trouble:trouble", *content.AGENTS) for word in ("--agents", agent))
QUIET_S = 120.0
INTRUDERS = 4
INTRUDER_PAUSE_S = 0.1
IN_THE_CALM = 6
"""Runs of each tenant at which everything is tried once more when all is quiet."""
_AUDIT = load_sql("runwire.observe", "observe.sql")["audit"]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything. Every kind of fault comes once before any comes again, for `seconds` (0: each once);
    `at_once` external runs are kept going.
    """

    seconds: float = 0.0
    kinds: tuple[str, ...] = tuple(FAULTS)
    gap_s: tuple[float, float] = (0.3, 1.5)
    at_once: int = 10
    events: int = 300
    batch: int = 20
    pause_s: float = 0.15
    golden_every_s: float = 0.5
    rates: content.Rates = field(default_factory=content.Rates)


@dataclass(slots=True)
class Report:
    faults: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    events: int = 0
    took_s: float = 0.0
    resumed: int = 0
    load: Load = field(default_factory=Load)
    content: content.Content = field(default_factory=content.Content)
    probes: Probes = field(default_factory=Probes)


async def campaign(
    scale: Scale,
    *,
    folder: Path,
    seed: int,
    tell: Callable[[str], None] = lambda _line: None,
    beside: Callable[[Scene], Coroutine[Any, Any, None]] | None = None,
) -> Report:
    """Holds the campaign and checks everything. `beside` runs until the load has ended, if it does not end before.

    Raises AssertionError at the first thing that is not as it must be.
    """
    began = time.monotonic()
    report = Report()
    async with _scene(folder, random.Random(seed), report.load) as scene:
        intruders = _intruders(scene, report, seed=seed)
        try:
            await _under_way(scene, scale, report=report, seed=seed, tell=tell, beside=beside, intruders=intruders)
            await _read_archived(scene, report.load)
            await checked(scene.cluster.primary.dsn, report)
            await content.check_content(report.content, dsn=scene.cluster.primary.dsn, folder=folder / "content")
            await _calm(intruders, scene, report)
        finally:
            assert report.probes.crossed == [], _crossings(report.probes)
        errors = [line for line in scene.fleet.errors() if not line["event"].startswith(NO_DATABASE)]
        assert errors == [], "\n".join(map(str, errors[:10]))
    report.took_s = time.monotonic() - began
    return report


async def _under_way(
    scene: Scene,
    scale: Scale,
    *,
    report: Report,
    seed: int,
    tell: Callable[[str], None],
    beside: Callable[[Scene], Coroutine[Any, Any, None]] | None,
    intruders: Intruders,
) -> None:
    """Load, faults and intruders, until every run has ended."""
    calm = asyncio.Event()
    also = [asyncio.create_task(beside(scene) if beside else asyncio.sleep(0))]
    async with asyncio.TaskGroup() as everything:
        also += [everything.create_task(intruders.run(pause_s=INTRUDER_PAUSE_S)) for _ in range(INTRUDERS)]
        load = everything.create_task(_load(scene, scale, seed=seed, load=report.load, calm=calm))
        writing = content.ContentLoad(
            report.content, report.load, ports=[proxy.port for proxy in scene.to_api.values()], seed=seed
        )
        written = everything.create_task(writing.run(scale.rates, scene.realm.tenants, calm=calm))
        await _faults(scene, scale, report=report, tell=tell)
        calm.set()
        tell("quiet: every run goes to its end")
        everything.create_task(_within(QUIET_S, lambda: _finished(report.load) and report.content.finished, scene))
        await asyncio.wait([load, written])
        for task in also:
            task.cancel()
    await asyncio.wait(also)


def _intruders(scene: Scene, report: Report, *, seed: int) -> Intruders:
    """They call half of the time past what harms the way to the APIs, so that a refusal is rarely a silence."""
    ports = [*scene.fleet.ports, *(proxy.port for proxy in scene.to_api.values())]
    return Intruders(
        scene.realm, ports=ports, run_ids=report.load.run_ids, rng=random.Random(seed), probes=report.probes
    )


async def _calm(intruders: Intruders, scene: Scene, report: Report) -> None:
    """Everything is tried at some runs of each tenant; and each is shown all of its runs."""
    for tenant in scene.realm.tenants:
        runs = [run_id for run_id in report.load.run_ids if tenant.owns(run_id)]
        for run_id in scene.rng.sample(runs, min(IN_THE_CALM, len(runs))):
            await intruders.in_the_calm(run_id)
        assert await intruders.listed(tenant) == set(runs)


async def _read_archived(scene: Scene, load: Load) -> None:
    """Reads from the API what may be in cold storage by now."""
    for run_id in load.archived:
        caller = Caller(scene.realm.of(run_id), scene.fleet.ports, scene.rng, load)
        status, page = await caller.get(f"{RUNS}/{run_id}/events?limit=1000")
        assert status == 200, page
        load.archived[run_id] = page["events"]


def _crossings(probes: Probes) -> str:
    some = "\n".join(probes.crossed[:20])
    return f"{len(probes.crossed)} of {probes.tried.total()} attempts crossed to another tenant's, such as\n{some}"


@asynccontextmanager
async def _scene(folder: Path, rng: random.Random, load: Load) -> AsyncIterator[Scene]:
    folder.chmod(0o755)  # noqa: ASYNC240  # takes no time
    stores = {
        "RUNWIRE_ARCHIVE_URL": str(folder / "archive"),
        "RUNWIRE_CONTENT_URL": str(folder / "content"),
    }
    clock = Clock(folder / "clock")
    async with AsyncExitStack() as held:
        database: Cluster = await held.enter_async_context(cluster(environment=clock.environment))
        await migrate(database.primary.dsn)
        realm = Realm(folder)
        members: list[Member] = []
        held.callback(_discard, members)
        to_database, to_api = {}, {}
        for place in PLACES:
            proxy = to_database[place] = await held.enter_async_context(proxying(database.primary.port))
            dsn = f"postgresql://runwire@127.0.0.1:{proxy.port}/runwire"
            member = Member(
                place,
                logs=folder,
                environment={**ENVIRONMENT, **stores, **realm.environment, "RUNWIRE_DATABASE_URL": dsn},
                arguments=("--role", place.partition("-")[0], *AGENTS),
            )
            members.append(member)
            if member.port:
                to_api[place] = await held.enter_async_context(proxying(member.port))
        await asyncio.gather(*(member.start(within_s=90) for member in members))
        yield Scene(Fleet(members), database, to_database, to_api, clock, realm, rng, load, asyncio.Lock())


def _discard(members: Sequence[Member]) -> None:
    for member in members:
        member.discard()


async def _faults(scene: Scene, scale: Scale, *, report: Report, tell: Callable[[str], None]) -> None:
    """One after the other, now and then two at once."""
    under_way: set[asyncio.Task[None]] = set()
    until = time.monotonic() + scale.seconds
    async with asyncio.TaskGroup() as group:
        for name in _order(scale.kinds, scene.rng):
            if report.faults.total() >= len(scale.kinds) and time.monotonic() >= until:
                break
            tell(f"fault {report.faults.total() + 1}, {report.load.events_acknowledged:,} events so far: {name}")
            task = group.create_task(FAULTS[name](scene))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            report.faults[name] += 1
            await asyncio.sleep(scene.rng.uniform(*scale.gap_s))
            while len(under_way) > 1:
                await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)


def _order(kinds: Sequence[str], rng: random.Random) -> Iterator[str]:
    while True:
        yield from rng.sample(kinds, len(kinds))


async def _load(scene: Scene, scale: Scale, *, seed: int, load: Load, calm: asyncio.Event) -> None:
    """Keeps `at_once` external runs going and starts golden ones, until it is calm; returns when all have ended."""
    ports, tenants = [proxy.port for proxy in scene.to_api.values()], scene.realm.tenants
    async with asyncio.TaskGroup() as runs:

        async def one_after_the_other(place: int) -> None:
            turn = 0
            while not calm.is_set():
                await external_run(
                    f"ext-{place}-{turn}",
                    tenant=tenants[place % len(tenants)],
                    ports=ports,
                    seed=seed * 1_000_003 + place * 1009 + turn,
                    load=load,
                    events=scale.events,
                    batch=scale.batch,
                    pause_s=scale.pause_s,
                )
                turn += 1

        for place in range(scale.at_once):
            runs.create_task(one_after_the_other(place))
        number = 0
        while not calm.is_set():
            tenant = tenants[number % len(tenants)]
            runs.create_task(
                golden_run(f"golden-{number}", tenant=tenant, ports=ports, seed=seed + number, load=load, delay_ms=300)
            )
            number += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(calm.wait(), scale.golden_every_s)


def _finished(load: Load) -> bool:
    return all(subscriber.end is not None for subscriber in load.subscribers)


async def _within(seconds: float, done: Callable[[], bool], scene: Scene) -> None:
    try:
        await eventually(done, within_s=seconds)
    except AssertionError:
        down = [member.name for member in scene.fleet.members if not member.running]
        raise AssertionError(f"runs do not end {seconds:g} s after the last fault; down: {down}") from None


async def checked(dsn: str, report: Report) -> None:
    """Clients saw what is stored, each acknowledged event is stored once, and the database's own audit agrees.

    Raises AssertionError where it is not so; counts runs and events in `report`.
    """
    connection = await asyncpg.connect(dsn)
    try:

        async def all_published() -> bool:
            return bool(await connection.fetchval("SELECT count(*) = 0 FROM run_outbox"))

        await eventually(all_published, within_s=60)
        runs = await connection.fetch("SELECT run_id, tenant, state::text AS state, last_seq FROM runs")
        report.runs = len(runs)
        may_end = {subscriber.run_id: subscriber.may_end for subscriber in report.load.subscribers}
        may_end |= dict.fromkeys(report.content.run_ids, frozenset({"finished"}))
        assert {row["run_id"] for row in runs} == set(may_end)
        assert [row["run_id"] for row in runs if row["state"] not in may_end[row["run_id"]]] == []
        assert all((row["run_id"].rpartition(":")[0] or DEFAULT_TENANT) == row["tenant"] for row in runs)
        broken = await connection.fetch(_AUDIT, [row["run_id"] for row in runs])
        assert broken == [], broken
        for subscriber in report.load.subscribers:
            await _check_run(connection, subscriber, report)
    finally:
        await connection.close()


async def _check_run(connection: asyncpg.Connection[asyncpg.Record], subscriber: Subscriber, report: Report) -> None:
    stored = await stored_events(connection, subscriber.run_id)
    if not stored and subscriber.run_id in report.load.archived:
        stored = report.load.archived[subscriber.run_id]
    assert subscriber.events == stored, subscriber.run_id
    report.events += len(stored)
    report.resumed += sum(event.get("fn") == "orchestrator.resumed" for event in stored)
    if (acknowledged := report.load.acknowledged.get(subscriber.run_id)) is not None:
        assert [event["fn"] for event in stored if "fn" in event] == acknowledged, subscriber.run_id
