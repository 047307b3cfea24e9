"""Each earlier schema, with the code that made it, is upgraded under load: nobody notices.

`releases/NNNN.tar.xz` is `src/runwire` as it was when migration NNNN was its newest. One is added before a release adds
migrations: `tar --sort=name --mtime=@0 --owner=0 --group=0 -cJf tests/upgrade/releases/NNNN.tar.xz src/runwire`.
"""

from __future__ import annotations

import asyncio
import tarfile
from collections.abc import Mapping
from pathlib import Path

import asyncpg
import pytest

from chaos.campaign import Report, checked
from chaos.load import Load, external_run, golden_run
from crash.fleet import Fleet, Member
from postgres import empty_database
from runwire.db.migrate import migrate
from runwire.db.migration import migrations
from waiting import eventually

RELEASES = sorted((Path(__file__).parent / "releases").glob("*.tar.xz"))
PLACES = ("api", "api", "worker", "worker", "publisher", "observer")
ENVIRONMENT = {
    "RUNWIRE_BUS": "postgres",
    "RUNWIRE_LEASE_S": "3",
    "RUNWIRE_LEASE_HEARTBEAT_S": "0.8",
    "RUNWIRE_SSE_RETRY_MS": "200",
}

pytestmark = [pytest.mark.crash, pytest.mark.timeout(240)]


@pytest.mark.parametrize("release", RELEASES, ids=[path.name.partition(".")[0] for path in RELEASES])
async def test_a_service_of_an_earlier_schema_is_upgraded_process_by_process_under_load(
    release: Path, postgres_dsn: str, tmp_path: Path
) -> None:
    with tarfile.open(release) as archive:
        archive.extractall(tmp_path / "old", filter="data")  # ours, and filtered
    source = tmp_path / "old" / "src"
    _declare_agents(source)
    old = {"PYTHONPATH": str(source)}
    async with empty_database(postgres_dsn) as dsn:
        environment = ENVIRONMENT | {"RUNWIRE_DATABASE_URL": dsn}
        members = [member(place, number, environment | old, tmp_path) for number, place in enumerate(PLACES)]
        load = Load()
        try:
            first, *others = members
            await first.start()  # and makes the schema
            await asyncio.gather(*(one.start() for one in others))
            assert await applied(dsn) == [m.name for m in migrations() if m.name[:4] <= release.name[:4]]
            upgraded = asyncio.Event()
            async with asyncio.TaskGroup() as everything:
                ports = [one.port for one in members if one.port]
                for place in range(4):
                    everything.create_task(_runs(place, ports, load=load, upgraded=upgraded))
                await events_stored(dsn, at_least=200)
                await migrate(dsn)
                before = await stored(dsn)
                await events_stored(dsn, at_least=before + 200)  # the old code goes on
                for one in members[::-1]:
                    one.kill()  # the old code starts on the new schema
                    await one.start()
                before = await stored(dsn)
                await events_stored(dsn, at_least=before + 100)
                for one in members:
                    assert await one.terminate() == 0
                    one.use(environment)
                    await one.start()
                before = await stored(dsn)
                await events_stored(dsn, at_least=before + 200)
                upgraded.set()
            await checked(dsn, Report(load=load))
            assert Fleet(members).errors() == []
        finally:
            for one in members:
                one.discard()


def _declare_agents(source: Path) -> None:
    """Names the agents of a release as its installation did. Without this it would find those of today's package."""
    installed = source / "runwire-0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: runwire\nVersion: 0\n")
    agents = "".join(f"{name} = runwire.agents.{name}:{name}\n" for name in ("golden", "explore"))
    (installed / "entry_points.txt").write_text(f"[runwire.agents]\n{agents}")


def member(place: str, number: int, environment: Mapping[str, str], logs: Path) -> Member:
    return Member(f"{place}-{number}", logs=logs, environment=environment, arguments=("--role", place))


async def _runs(place: int, ports: list[int], *, load: Load, upgraded: asyncio.Event) -> None:
    """One run after the other, until all is upgraded."""
    turn = 0
    while not upgraded.is_set():
        name, seed = f"{place}-{turn}", place * 1009 + turn
        if place == 0:
            await golden_run(name, ports=ports, seed=seed, load=load, delay_ms=100)
        else:
            await external_run(name, ports=ports, seed=seed, load=load, events=60, batch=10, pause_s=0.1)
        turn += 1


async def _asked(dsn: str, question: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(question)
    finally:
        await connection.close()


async def applied(dsn: str) -> list[str]:
    return [row["name"] for row in await _asked(dsn, "SELECT name FROM runwire_migrations ORDER BY name")]


async def stored(dsn: str) -> int:
    return int((await _asked(dsn, "SELECT count(*) AS n FROM run_events"))[0]["n"])


async def events_stored(dsn: str, *, at_least: int) -> None:
    async def enough() -> bool:
        return await stored(dsn) >= at_least

    await eventually(enough, within_s=60)
