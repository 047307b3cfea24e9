"""Every SQLSTATE at every statement of every role: the process lives, says what it cannot do, and recovers by itself.

`RUNWIRE_EVERY_SQLSTATE=1` raises every class at each statement, which takes an hour; the suite takes them in turn.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from archive.history import archive, hot, run_of
from archive.test_worker import worker_of
from content.plane import Plane
from pipeline import raw
from refusals import Refusals, named, nothing
from runwire.assembly import Assembly
from runwire.db import Database
from runwire.duties import Duty
from runwire.server.auth import Scope
from runwire.server.auth.keys import new_key
from runwire.settings import Settings
from server.test_access import bearer
from waiting import eventually

STATES = """
    01000 02000 03000 08006 08P01! 0A000 0B000 0F000 0L000 0P000 0Z000 20000 21000 22023 23505 24000 25006
    25P02 25P03! 25P04! 26000 27000 28000 28P01 2B000 2D000 2F000 34000 38000 39000 3B000 3D000 3F000 40001
    40P01 42501 42601 42P01 42883 44000 53100 53200 53300 53400 54000 55000 55P03 57014 57P01! 57P02! 57P03
    57P05! 58000 58030 72000 F0000 HV000 P0001 XX000 XX001 XX002
""".split()  # noqa: SIM905  # read as a table
RUNS = "/api/agents/runs"
FAST: dict[str, Any] = {
    "bus": "postgres",
    "observe_s": 0.2,
    "worker_poll_s": 0.1,
    "lease_s": 3.0,
    "lease_heartbeat_s": 0.2,
    "publish_sweep_s": 0.2,
    "publish_heartbeat_s": 0.2,
    "publish_lease_s": 1.0,
    "publish_backoff_max_s": 0.5,
    "db_timeout_s": 3.0,
    "drain_s": 2.0,
}


EVERY = bool(os.environ.get("RUNWIRE_EVERY_SQLSTATE"))


def refusals_of(way: Refusals, statements: set[str]) -> Iterator[str]:
    """Each statement in turn, refused with a state of its own, or EVERY one; nothing is after the last.

    The state comes from the name: another statement that was seen by chance changes nothing for this one.
    """
    for statement in sorted(statements):
        for state in STATES if EVERY else [STATES[zlib.crc32(statement.encode()) % len(STATES)]]:
            before = way.refused
            way.refuse = lambda sql, at=statement, state=state: state if named(sql) == at else None  # type: ignore[misc]
            yield f"{statement} {state}"
            way.refuse = nothing
            if EVERY:
                print(statement, state, way.refused - before)  # noqa: T201  # an hour is long


@asynccontextmanager
async def process(database: str, **more: Any) -> AsyncIterator[tuple[Assembly, Refusals]]:
    way = Refusals(database)
    async with way.open() as dsn:
        settings = Settings(database_url=dsn, port=0, admin_port=0, worker_id="w1", **FAST, **more)
        async with Assembly(settings) as assembly:
            running = asyncio.create_task(assembly.run_until_stopped())
            yield assembly, way
            way.refuse = nothing
            assert not running.done(), "the process has ended by itself"
            assembly.stop()
            await running


async def started(api: httpx.AsyncClient) -> int:
    """The status of a start; never the one that tells clients that repeating is of no use."""
    status = (await api.post(RUNS, json={})).status_code
    assert status in (202, 422, 503), status
    return status


async def works_again(assembly: Assembly, *, within_s: float = 20.0) -> None:
    async with (
        httpx.AsyncClient(base_url=assembly.url, timeout=10) as api,
        httpx.AsyncClient(base_url=assembly.admin_url, timeout=10) as admin,
    ):

        async def ready() -> bool:
            return (await admin.get("/readyz")).status_code == 200

        await eventually(ready, within_s=within_s)
        response = await api.post(RUNS, json={})
        assert response.status_code == 202, response.text
        run_id = response.json()["runId"]

        async def published() -> bool:
            run = (await api.get(f"{RUNS}/{run_id}")).json()
            return bool(run["state"] == "finished" and run["publishedSeq"] == run["lastSeq"])

        await eventually(published, within_s=within_s)


async def test_each_statement_in_turn_is_refused_and_the_process_goes_on(database: str) -> None:
    async with process(database) as (assembly, way):
        await works_again(assembly)
        await eventually(lambda: len(way.seen) > 20)
        async with httpx.AsyncClient(base_url=assembly.url, timeout=10) as api:
            for _ in refusals_of(way, set(way.seen)):
                for _ in range(4):
                    await started(api)
                    await asyncio.sleep(0.05)
        await works_again(assembly)


async def test_everything_is_refused_at_once_and_the_process_says_so_and_recovers(database: str) -> None:
    async with process(database) as (assembly, way):
        await works_again(assembly)
        rng = random.Random(11)  # the same each time
        way.refuse = lambda _sql: rng.choice(STATES)
        async with (
            httpx.AsyncClient(base_url=assembly.url, timeout=10) as api,
            httpx.AsyncClient(base_url=assembly.admin_url, timeout=10) as admin,
        ):
            starts = {await started(api) for _ in range(20)}
            assert 202 not in starts

            async def told() -> dict[str, str]:
                ready = await admin.get("/readyz")
                assert ready.status_code == 503
                checks: dict[str, str] = ready.json()["checks"]
                assert {"claim", "sweep", "observe"} <= checks.keys(), checks
                return checks

            await eventually(told, within_s=10)
            metrics = (await admin.get("/metrics")).text
            assert 'runwire_role_unwell{role="worker"} 0.0' not in metrics
            assert 'runwire_role_unwell{role="publisher"} 0.0' not in metrics
        way.refuse = nothing
        await works_again(assembly)
        async with httpx.AsyncClient(base_url=assembly.admin_url, timeout=10) as admin:

            async def well() -> bool:
                text = (await admin.get("/metrics")).text
                unwell = [line for line in text.splitlines() if line.startswith("runwire_role_unwell{")]
                return all(line.endswith(" 0.0") for line in unwell)

            await eventually(well, within_s=10)


async def test_each_statement_of_the_archiver_in_turn_is_refused_and_it_goes_on(database: str, tmp_path: Path) -> None:
    way = Refusals(database)
    async with way.open() as dsn, archive(dsn, tmp_path) as here, Database(database) as direct:
        worker = worker_of(here)

        async def due(run_id: str) -> None:
            await run_of(direct, run_id)
            # As if days had gone by: nobody finishes in the past.
            await direct.execute("UPDATE archive_progress SET archived_all = '-infinity'")

        async def done() -> bool:
            return await worker.work() == 1000.0

        await due("undisturbed")
        assert await done()
        names = ("lock", "begin", "events", "record_batch", "record_runs", "mark_verified", "kept", "mark_dropped")
        assert {f"runwire.archive.{name}" for name in names} <= way.seen
        for number, refused in enumerate(refusals_of(way, set(way.seen))):
            await due(f"run-{number}")
            await worker.work()  # raises nothing
            way.refuse = nothing
            await eventually(done, within_s=20)
            assert await hot(direct, f"run-{number}") == [], refused
        assert await direct.fetchval("SELECT count(*) FROM archived_runs") == number + 2
        await worker.aclose()


async def test_each_statement_of_the_collector_in_turn_is_refused_and_it_goes_on(database: str, tmp_path: Path) -> None:
    way = Refusals(database)
    async with way.open() as dsn, Database(dsn) as through, Database(database) as direct:
        plane = Plane(through, tmp_path)
        collector, attempts = plane.collector(keep_days=1), through.attempts(Duty.COLLECT)

        async def leave(name: str) -> None:
            """Bytes in PostgreSQL that no artifact names, an unfinished upload, and a batch that may have content."""
            await plane.store.put(name, b"left", size=4, sha256=hashlib.sha256(b"left").digest())
            await direct.execute("INSERT INTO content_objects (object, tenant, size) VALUES ($1, 'default', 4)", name)
            await direct.execute(
                "INSERT INTO content_blobs (tenant, sha256, size, data, released_at)"
                " VALUES ('default', $1, 4, 'left', now() - interval '1 hour')",
                hashlib.sha256(name.encode()).digest(),
            )
            await direct.execute(
                "INSERT INTO archive_batches (batch_id, run_day, state, path, format, sha256, verified_at, dropped_at)"
                " VALUES ($1, current_date, 'dropped', $1, '1', '\\x00', now(), now())",
                name,
            )

        async def all_collected() -> bool:
            with attempts:
                await collector.collect()
            left: int = await direct.fetchval(
                "SELECT (SELECT count(*) FROM content_objects) + (SELECT count(*) FROM content_blobs)"
                " + (SELECT count(*) FROM archive_batches WHERE content_left)"
            )
            return left == 0 and plane.files() == set()

        await leave("undisturbed")
        await eventually(all_collected, within_s=20)
        names = (
            "expire",
            "collect_blobs",
            "condemn",
            "condemned",
            "forget_objects",
            "batch_to_move",
            "to_move",
            "batch_moved",
            "orphans",
        )
        assert {f"runwire.content.{name}" for name in names} <= way.seen
        for number, _ in enumerate(refusals_of(way, set(way.seen))):
            await leave(f"left-{number}")
            with attempts:  # as its loop does: nothing gets past it
                await collector.collect()
            way.refuse = nothing
            await eventually(all_collected, within_s=20)


async def test_each_statement_of_a_tenant_in_turn_is_refused_and_shows_nobody_elses_runs(database: str) -> None:
    keys = {tenant: new_key(tenant=tenant, scopes=list(Scope)) for tenant in ("acme", "other")}
    lines = tuple(record.line for _, record in keys.values())
    async with (
        process(database, keys=lines) as (assembly, way),
        httpx.AsyncClient(base_url=assembly.url, headers=bearer(keys["acme"][0]), timeout=30) as acme,
        httpx.AsyncClient(base_url=assembly.url, headers=bearer(keys["other"][0]), timeout=30) as other,
    ):
        run_id = (await acme.post(RUNS, json={"agent": "golden"})).json()["runId"]
        run = f"{RUNS}/{run_id}"
        calls = [
            ("GET", f"{RUNS}?state=finished&agent=golden", None),
            ("GET", run, None),
            ("GET", f"{run}/events", None),
            ("GET", f"{run}/diagnosis", None),
            ("POST", f"{run}/cancel", {}),
            ("POST", RUNS, {"external": True}),
        ]

        async def ended() -> bool:
            return bool((await acme.get(run)).json()["state"] == "finished")

        await eventually(ended, within_s=20)
        way.seen.clear()
        for method, path, body in calls:
            assert (await acme.request(method, path, json=body)).status_code in (200, 202)
        assert any(statement.startswith("SELECT set_config('search_path'") for statement in way.seen)
        background = ("runwire.publish", "runwire.append", "runwire.observe.backlog", "runwire.observe.audit")
        for refused in refusals_of(way, {one for one in way.seen if not one.startswith(background)}):
            *answers, theirs, hidden = await asyncio.gather(
                *(acme.request(method, path, json=body) for method, path, body in calls),
                other.get(RUNS),
                other.get(run),
            )
            assert {answer.status_code for answer in answers} <= {200, 202, 422, 503}, refused
            assert theirs.status_code in (200, 422, 503), refused
            assert "acme:" not in theirs.text, refused
            assert hidden.status_code in (404, 422, 503), refused

        async def well() -> bool:
            answers = [await acme.request(method, path, json=body) for method, path, body in calls]
            return {answer.status_code for answer in answers} <= {200, 202}

        await eventually(well, within_s=20)


async def test_with_a_dozen_connections_a_process_serves_and_is_ready(database: str) -> None:
    """It wants twenty: what has to be there finds room, and the pool makes do with what is left."""
    role = f"few_{urlsplit(database).path.removeprefix('/')}"
    admin = await raw(database)
    await admin.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 12")
    try:
        settings = Settings(database_url=database.replace("runwire@", f"{role}@"), port=0, admin_port=0, **FAST)
        await admin.execute(f"GRANT runwire TO {role}")
        await admin.execute(f"ALTER ROLE {role} SET role = 'runwire'")
        async with Assembly(settings) as assembly, httpx.AsyncClient(base_url=assembly.url, timeout=20) as api:
            answers = await asyncio.gather(*(api.post(RUNS, json={}) for _ in range(60)))
            assert {answer.status_code for answer in answers} == {202}
            await works_again(assembly)

            async def finished() -> bool:
                left: int = await admin.fetchval("SELECT count(*) FROM runs WHERE state <> 'finished'")
                return left == 0

            await eventually(finished, within_s=20)
    finally:
        await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await admin.close()
