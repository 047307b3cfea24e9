"""Faults, made for real, and the runbook's way out of each. Up to its `yield` a fault injects, after it it recovers."""

from __future__ import annotations

import asyncio
import contextlib
import math
import tarfile
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import asyncpg

import runwire
from drills.rules import RUN_LIMIT_S, left_out
from drills.stage import AGENTS, TESTS, Stage, references
from runbook import done, looker
from runwire.content.spool import INLINE_MAX
from runwire.errors import ContentUnavailable, RunwireError
from runwire.model.event import RUN_FINISHED, RUN_STARTED, debug_trace
from runwire.model.run import RunState
from runwire.ops.pipeline_alerts import LAG
from waiting import eventually

BEFORE_SHARDS: Final = TESTS / "upgrade" / "releases" / "0002.tar.xz"
"""The source of the last release whose publishers know no shards."""
Fault: TypeAlias = Callable[[Stage], AsyncIterator[None]]
FORGOTTEN: Final = "changes data: ends other people's forgotten transactions"
TRACE: Final = debug_trace("drill.step")
ASK_S: Final = 0.1
"""Between two tries of a step."""
PATIENCE_S: Final = 120.0
"""Seconds after which an alert will not come any more, however busy the machine."""
STEER_S: Final = 1.5
"""Half the window that the lag is measured over: as often as a change can be seen."""


# ---------------------------------------------------------------------- processes


async def publisher_killed(stage: Stage) -> AsyncIterator[float]:
    """While lag is already an alert and a run goes on: the alerts that only repeat it must fall silent."""
    async with contextlib.AsyncExitStack() as busy:
        runs = await _external_runs(stage, "kill", 2)
        await busy.enter_async_context(_appending(stage, runs))
        holding = asyncio.create_task(_hold_again_and_again(stage, runs, Hold(2.0)))
        await eventually(lambda: _fires(stage, "PublishLagPage"), within_s=PATIENCE_S)
        await cancelled(holding)
        stage.member("publisher-0").kill()
        killed = time.time()
        await (await stage.api()).append(runs[0], [TRACE] * 500)
        yield killed
        await stage.member("publisher-0").start()


async def second_publisher(stage: Stage) -> AsyncIterator[None]:
    """A process of the release before shards, as a deploy leaves it that was never ended: it publishes any run."""
    with tarfile.open(BEFORE_SHARDS) as release:
        release.extractall(stage.folder / "before-shards", filter="data")  # ours, and filtered
    source = stage.folder / "before-shards" / "src"
    # It needs no agents, and does not know all of what theirs import.
    await stage.add("publisher-old", "publisher", PYTHONPATH=f"{source}:{TESTS}", RUNWIRE_AGENTS="")
    yield
    await stage.remove("publisher-old")


async def observer_killed(stage: Stage) -> AsyncIterator[None]:
    stage.member("observer-0").kill()
    yield
    await stage.member("observer-0").start()


async def process_frozen(stage: Stage) -> AsyncIterator[None]:
    """A machine that is paused: the process is there and does not answer."""
    with stage.member("worker-0").frozen():
        yield
        stage.member("worker-0").kill()
    await stage.member("worker-0").start()


# ---------------------------------------------------------------------- database


async def database_stopped(stage: Stage) -> AsyncIterator[None]:
    """PostgreSQL is shut down under all processes, while runs are appended to."""
    assert stage.server is not None
    runs = await _external_runs(stage, "stopped", 4)
    async with _appending(stage, runs):
        await stage.server.stop()
        yield
        assert await stage.server.start() == stage.database


async def database_takes_no_writes(stage: Stage) -> AsyncIterator[None]:
    """As a provider makes it whose disk is full: every session, at its next statement."""
    runs = await _external_runs(stage, "readonly", 2)
    async with _appending(stage, runs):
        await stage.sql("ALTER SYSTEM SET default_transaction_read_only = on")
        await stage.sql("SELECT pg_reload_conf()")
        yield
        await stage.sql("ALTER SYSTEM RESET default_transaction_read_only")
        await stage.sql("SELECT pg_reload_conf()")


async def connections_run_out(stage: Stage) -> AsyncIterator[None]:
    """Another program opens connection after connection, and closes none."""
    [[most]] = await stage.sql("SELECT current_setting('max_connections')::int")
    held: list[asyncpg.Connection[asyncpg.Record]] = []
    try:
        while True:
            [[open_now]] = await stage.sql("SELECT sum(numbackends)::int FROM pg_stat_database")
            if open_now > 0.94 * most:
                break
            settings = {"application_name": "leaky"}
            held.append(await asyncpg.connect(stage.database, server_settings=settings, statement_cache_size=0))
        yield
        await done("changes data: ends idle sessions of one program", database=stage.database, PROGRAM="leaky")
    finally:
        for connection in held:
            connection.terminate()


async def transaction_forgotten(stage: Stage) -> AsyncIterator[None]:
    """Somebody's shell has begun a transaction, and its user has gone home. It holds no lock of runwire's."""
    connection = await asyncpg.connect(stage.database, server_settings={"application_name": "psql"})
    try:
        await connection.execute("BEGIN")
        await connection.fetch("SELECT 1")
        yield
        await end_forgotten_transactions(stage, connection)
    finally:
        connection.terminate()


async def partitions_dropped(stage: Stage) -> AsyncIterator[None]:
    """A script with a wrong date drops the partitions of the days to come, and again when a process has made them."""
    days = await stage.sql(
        "SELECT to_char((now() AT TIME ZONE 'UTC')::date + n, 'YYYYMMDD') AS day FROM generate_series(2, 7) AS n"
    )

    async def drop() -> None:
        while True:
            for [day] in days:
                with contextlib.suppress(asyncpg.PostgresError):
                    await stage.sql(f"DROP TABLE IF EXISTS run_events_{day}")
            await asyncio.sleep(1)

    task = asyncio.create_task(drop())
    yield
    await cancelled(task)
    await done("changes data: makes the partitions of the next 7 days", database=stage.database)


# ---------------------------------------------------------------------- outbox


def cursors_held(for_s: float, *, lag_s: tuple[float, float] | None = None) -> Fault:
    """Somebody's script takes rows of run_outbox for so long, again and again: their events go out late.

    With `lag_s` for as long as brings the p95 that the alerts look at into that range, on whatever machine this is.
    """

    async def fault(stage: Stage) -> AsyncIterator[None]:
        runs = await _external_runs(stage, "lag", 4)
        hold = Hold(for_s)
        async with _appending(stage, runs), _watching(stage, runs):
            holding = asyncio.create_task(_hold_again_and_again(stage, runs, hold))
            steering = asyncio.create_task(steer(stage, hold, lag_s, series=f"{LAG}1m")) if lag_s is not None else None
            yield
            if steering is not None:
                await cancelled(steering)
            await eventually(lambda: _ended(stage, holding), within_s=PATIENCE_S)

    return fault


async def cursor_held(stage: Stage) -> AsyncIterator[None]:
    """A forgotten transaction has a run's cursor, while the run goes on."""
    [run] = await _external_runs(stage, "held", 1)
    connection = await asyncpg.connect(stage.database, server_settings={"application_name": "psql"})
    try:
        await connection.execute("BEGIN")
        await connection.fetch("SELECT 1 FROM run_outbox WHERE run_id = $1 FOR UPDATE", run.run_id)
        await (await stage.api()).append(run, [TRACE] * 500)
        yield
        async with looker(stage.database) as url:
            assert str(connection.get_server_pid()) in await done("old transactions", database=url)
        await end_forgotten_transactions(stage, connection)
    finally:
        connection.terminate()


# ---------------------------------------------------------------------- runs


async def node_hangs(stage: Stage) -> AsyncIterator[None]:
    client = await stage.api()
    run = await client.start("hasty")
    yield
    await client.cancel(run)


async def nobody_knows_the_agent(stage: Stage) -> AsyncIterator[None]:
    """A deploy has reached the API and not the workers: a run is accepted, and no worker knows its agent."""
    await stage.add("api-5", "api", RUNWIRE_AGENTS=references(*AGENTS, "lonely"))
    run = await (await stage.api("api-5")).start("lonely")
    yield
    await stage.add("worker-5", "worker", RUNWIRE_AGENTS=references("lonely"))
    client = await stage.api("api-5")
    await eventually(lambda: _is(client, run, RunState.FINISHED), within_s=PATIENCE_S)
    await stage.remove("api-5")
    await stage.remove("worker-5")


async def runs_fail(stage: Stage) -> AsyncIterator[None]:
    """Every run of one agent fails, as after a deploy that broke it."""
    client = await stage.api()

    async def starting() -> None:
        while True:
            with contextlib.suppress(RunwireError):
                await client.start("failing")
            await asyncio.sleep(0.3)

    task = asyncio.create_task(starting())
    yield
    await cancelled(task)


async def sleeping_run_locked(stage: Stage) -> AsyncIterator[None]:
    """A forgotten transaction has the row of a run that sleeps, so no worker can take the run when its time comes."""
    client = await stage.api()
    run = await client.start("sleepy")

    async def sleeps() -> bool:
        return (await client.run(run)).state is RunState.WAITING

    await eventually(sleeps, within_s=PATIENCE_S)
    connection = await asyncpg.connect(stage.database, server_settings={"application_name": "psql"})
    try:
        await connection.execute("BEGIN")
        await connection.fetch("SELECT 1 FROM runs WHERE run_id = $1 FOR UPDATE", run.run_id)
        yield
        await end_forgotten_transactions(stage, connection)
    finally:
        connection.terminate()


async def runs_are_slow(stage: Stage) -> AsyncIterator[None]:
    """Every run takes half as long again as the objective allows at this scale."""
    client = await stage.api()
    slow_ms = round(1.5 * RUN_LIMIT_S * 1000 / 5)

    async def starting() -> None:
        while True:
            await client.start("golden", input={"delay_ms": slow_ms})
            await asyncio.sleep(0.3)

    task = asyncio.create_task(starting())
    yield
    await cancelled(task)


async def log_locked(stage: Stage) -> AsyncIterator[None]:
    """A forgotten transaction has locked the log against writing, as for an index that is never finished."""
    runs = await _external_runs(stage, "locked", 4)
    async with _appending(stage, runs):
        connection = await asyncpg.connect(stage.database, server_settings={"application_name": "psql"})
        try:
            await connection.execute("BEGIN")
            await connection.execute("LOCK TABLE run_events IN SHARE MODE")
            yield
            await end_forgotten_transactions(stage, connection)
        finally:
            connection.terminate()


# ---------------------------------------------------------------------- streams


async def viewers_churn(stage: Stage) -> AsyncIterator[None]:
    """Many viewers of one run, each cut off once."""
    run = await (await stage.api()).start("patient")
    for number in range(12):
        await _resume(stage, run.run_id, viewer=f"churning/{number}")
    yield  # the proxy that cut them off has been mended: nobody comes back again


async def viewer_flaps(stage: Stage) -> AsyncIterator[None]:
    """One viewer that is cut off again and again, by a proxy with a short timeout."""
    run = await (await stage.api()).start("patient")
    for _ in range(7):
        await _resume(stage, run.run_id, viewer="flapping/1")
    yield  # as above


async def heartbeats_too_rare(stage: Stage) -> AsyncIterator[float]:
    """A process was deployed with heartbeats so rare that proxies take its streams for dead."""
    await stage.add("api-1", "api", RUNWIRE_SSE_HEARTBEAT_S="3600")
    client = await stage.api("api-1")
    run = await client.start("patient")
    async with _watching(stage, [run], api="api-1"):
        yield time.time()
        await stage.remove("api-1")


async def connections_ask_for_nothing(stage: Stage) -> AsyncIterator[None]:
    """Half requests without end, as slowloris sends them, to a process with few descriptors and long deadlines."""
    await stage.add("api-2", "api", RUNWIRE_HTTP_CONNECTIONS_MAX="40", RUNWIRE_HTTP_HEAD_S="600")
    url = urlsplit(stage.member("api-2").url)
    held = []
    for _ in range(60):
        _, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: loc")
        held.append(writer)
    yield
    for writer in held:
        writer.close()
    await stage.remove("api-2")


# ---------------------------------------------------------------------- grants


async def observer_may_not_read(stage: Stage) -> AsyncIterator[None]:
    """A second observer with a database role of its own, whose rights somebody takes away."""
    name = f"drill_{uuid.uuid4().hex[:10]}"
    await stage.sql(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE CURRENT_USER")
    parts = urlsplit(stage.database)
    database = urlunsplit(parts._replace(netloc=f"{name}:x@{parts.netloc.rpartition('@')[2]}"))
    await stage.add("observer-1", "observer", RUNWIRE_DATABASE_URL=database)
    [[owner]] = await stage.sql("SELECT current_user")
    await stage.sql(f"REVOKE {owner} FROM {name}")
    yield
    await stage.sql(f"GRANT {owner} TO {name}")
    await eventually(lambda: _silent(stage, "RoleUnwell"), within_s=PATIENCE_S)
    await stage.remove("observer-1")
    await stage.sql(f"DROP ROLE {name}")


# ---------------------------------------------------------------------- nodes


async def node_blocks(stage: Stage) -> AsyncIterator[None]:
    """A node that sleeps as a thread may and an event loop may not."""
    await (await stage.api()).start("standing")
    yield  # the node was made a plain function: it does not happen again


async def run_loses_two_workers(stage: Stage) -> AsyncIterator[None]:
    """The worker of a run is killed, and so is the next one, while both are in the same node."""
    client = await stage.api()
    run = await client.start("resting")
    for losses in range(2):
        [row] = await eventually(lambda: _owner(stage, run.run_id, attempt=losses + 1), within_s=PATIENCE_S)  # noqa: B023
        owner = stage.member(row["owner"])
        owner.kill()
        await owner.start()
    yield
    await client.cancel(run.run_id)


async def _owner(stage: Stage, run_id: str, *, attempt: int) -> list[asyncpg.Record]:
    """Waits for a node to run, and returns its run."""
    return await stage.sql(
        "SELECT split_part(r.lease_owner, ':', 1) AS owner FROM runs AS r WHERE r.run_id = $1 AND r.attempt = $2 "
        "AND (SELECT count(*) FROM run_events AS e WHERE e.run_id = r.run_id AND e.type = 'NodeStarted') = $2",
        run_id,
        attempt,
    )


# ---------------------------------------------------------------------- invariants


async def event_deleted(stage: Stage) -> AsyncIterator[None]:
    """A row of a finished run's log is deleted; the way out is the backup."""
    run_id = await _finished_run(stage)
    [backup] = await stage.sql("DELETE FROM run_events WHERE run_id = $1 AND seq = 5 RETURNING *", run_id)
    yield
    await _restored(stage, backup)


async def gap_outlives_its_observer(stage: Stage) -> AsyncIterator[None]:
    """A row is deleted and the alert fires; then the only observer dies, and the one after it has seen nothing yet."""
    run_id = await _finished_run(stage)
    [backup] = await stage.sql("DELETE FROM run_events WHERE run_id = $1 AND seq = 5 RETURNING *", run_id)
    # As old as that nobody looks at it soon but in the walk through all runs.
    await stage.sql("UPDATE runs SET finished_at = finished_at - interval '1 hour' WHERE run_id = $1", run_id)
    await eventually(lambda: _fires(stage, "SequenceGap"), within_s=PATIENCE_S)
    observer = stage.member("observer-0")
    observer.kill()
    await observer.start()
    told = time.time()

    async def found_by_nobody_lately() -> bool:
        looks = await stage.prometheus.value("max(runwire_observer_last_success_timestamp_seconds)")
        new = await stage.prometheus.value(
            'sum(increase(runwire_invariant_violations_total{invariant="density"}[15s]))'
        )
        return looks is not None and looks > told and new == 0

    await eventually(found_by_nobody_lately, within_s=PATIENCE_S)
    await eventually(lambda: _fires(stage, "SequenceGap"), within_s=20)  # the new observer knows of the gap
    yield
    await _restored(stage, backup)


async def _restored(stage: Stage, backup: asyncpg.Record) -> None:
    columns = ", ".join(backup.keys())
    values = ", ".join(f"${n + 1}" for n in range(len(backup)))
    await stage.sql(f"INSERT INTO run_events ({columns}) VALUES ({values})", *backup.values())  # noqa: S608  # ours


async def terminal_event_lost(stage: Stage) -> AsyncIterator[None]:
    """A finished run whose last event does not say so: somebody edited the log."""
    run_id = await _finished_run(stage)
    await stage.sql(
        "UPDATE run_events SET type = 'DebugTrace', fn = 'edited' WHERE run_id = $1 AND type = 'RunFinished'", run_id
    )
    yield
    await stage.sql("UPDATE run_events SET type = 'RunFinished', fn = NULL WHERE run_id = $1 AND fn = 'edited'", run_id)


async def outbox_row_deleted(stage: Stage) -> AsyncIterator[None]:
    run = await (await stage.api()).start("patient")
    await _published(stage, run.run_id)
    await stage.sql("DELETE FROM run_outbox WHERE run_id = $1", run.run_id)
    yield
    await _publish_again(stage, run.run_id)


async def cursor_beyond_log(stage: Stage) -> AsyncIterator[None]:
    run = await (await stage.api()).start("patient")
    await _published(stage, run.run_id)
    await stage.sql("UPDATE run_outbox SET next_seq = next_seq + 1000 WHERE run_id = $1", run.run_id)
    yield
    await _publish_again(stage, run.run_id)


# ---------------------------------------------------------------------- archive


async def archive_takes_nothing(stage: Stage) -> AsyncIterator[float]:
    """A run that ended long ago, and cold storage that cannot be written: a file is where its folder should be."""
    stage.archive.write_text("not a folder")
    await stage.add("archiver-0", "archiver", RUNWIRE_ARCHIVE_PERIOD_S="1")
    run_id = await _finished_run(stage)
    struck = time.time()
    await stage.sql("SELECT make_event_partition((now() AT TIME ZONE 'UTC')::date - 40)")
    await stage.sql(
        "WITH moved AS (UPDATE run_events SET run_day = run_day - 40 WHERE run_id = $1) "
        "UPDATE runs SET run_day = run_day - 40, finished_at = finished_at - interval '40 days' WHERE run_id = $1",
        run_id,
    )
    yield struck
    stage.archive.unlink()


async def content_store_takes_nothing(stage: Stage) -> AsyncIterator[None]:
    """A run that stores large artifacts, and a content store that cannot be written: a file is where its folder was."""
    client = await stage.api()
    run = await client.start("elsewhere", external=True, lease_seconds=600)
    await client.append(run, [RUN_STARTED])
    await client.store_artifact(run, "large", b"1" * (INLINE_MAX + 1))
    away = stage.content.rename(stage.content.with_name("away"))
    stage.content.write_text("not a folder")
    with contextlib.suppress(ContentUnavailable):
        await client.store_artifact(run, "large", b"2" * (INLINE_MAX + 1))
    yield
    stage.content.unlink()
    away.rename(stage.content)
    await client.store_artifact(run, "large", b"2" * (INLINE_MAX + 1))
    await client.append(run, [RUN_FINISHED], outcome=RunState.FINISHED)


# ---------------------------------------------------------------------- telemetry


async def collector_gone(stage: Stage) -> AsyncIterator[None]:
    await stage.collector.stop()
    yield
    await stage.collector.start()


# ---------------------------------------------------------------------- parts


async def end_forgotten_transactions(stage: Stage, connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """The runbook's step, until it has ended that session, whose transaction may be too young at first."""
    pid = connection.get_server_pid()

    async def gone() -> bool:
        await done(FORGOTTEN, database=stage.database)
        await asyncio.sleep(ASK_S)
        return not await stage.sql("SELECT 1 FROM pg_stat_activity WHERE pid = $1", pid)

    await eventually(gone, within_s=PATIENCE_S)


async def _ended(stage: Stage, holding: asyncio.Task[None]) -> bool:
    """Whether the step hit it; between two of its transactions there is nothing to end."""
    await done(FORGOTTEN, database=stage.database, OLDER="0.05 seconds")
    await asyncio.sleep(ASK_S)
    return holding.done()


async def _publish_again(stage: Stage, run_id: str) -> None:
    await done("changes data: publishes a run again from its first event", database=stage.database, RUN_ID=run_id)


async def _external_runs(stage: Stage, name: str, count: int) -> list[runwire.StartedRun]:
    client = await stage.api()
    runs = [await client.start(name, external=True, lease_seconds=600) for _ in range(count)]
    for run in runs:
        await client.append(run, [RUN_STARTED])
        await _published(stage, run.run_id)
    return runs


@contextlib.asynccontextmanager
async def _appending(stage: Stage, runs: list[runwire.StartedRun]) -> AsyncIterator[None]:
    """Inside, each run gets ten events five times a second, as long as the log takes them."""
    client = await stage.api()

    async def append(run: runwire.StartedRun) -> None:
        while True:
            with contextlib.suppress(RunwireError):
                await client.append(run, [TRACE] * 10)
            await asyncio.sleep(0.2)

    tasks = [asyncio.create_task(append(run)) for run in runs]
    try:
        yield
    finally:
        await cancelled(*tasks)
        for run in runs:
            with contextlib.suppress(RunwireError):
                await client.append(run, [RUN_FINISHED], outcome=RunState.FINISHED)


@contextlib.asynccontextmanager
async def _watching(stage: Stage, runs: list[runwire.StartedRun], *, api: str = "api-0") -> AsyncIterator[None]:
    """Inside, each run has a viewer."""
    client = await stage.api(api)

    async def watch(run: runwire.StartedRun) -> None:
        with contextlib.suppress(RunwireError):
            async for _ in client.stream(run):
                pass

    tasks = [asyncio.create_task(watch(run)) for run in runs]
    try:
        for _ in runs:
            await eventually(lambda: stage.prometheus.value("sum(runwire_sse_connections)"), within_s=PATIENCE_S)
        yield
    finally:
        await cancelled(*tasks)


@dataclass
class Hold:
    """How long rows are held at a time, or bytes on their way."""

    for_s: float


async def steer(stage: Stage, hold: Hold, lag_s: tuple[float, float], *, series: str) -> None:
    """Holds longer while the measured lag is below the range, and shorter while it is above."""
    low, high = lag_s
    while True:
        await asyncio.sleep(STEER_S)
        lag = await stage.prometheus.value(series)
        if lag is None or math.isnan(lag):
            continue
        if lag > high:
            hold.for_s = max(hold.for_s * 0.8, 0.02)
        elif lag < low:
            hold.for_s = min(hold.for_s * 1.25, 2.0)


async def _hold_again_and_again(stage: Stage, runs: list[runwire.StartedRun], hold: Hold) -> None:
    """Until its session is ended, or it is cancelled."""
    connection = await asyncpg.connect(stage.database, server_settings={"application_name": "psql"})
    ids = [run.run_id for run in runs]
    try:
        while True:
            async with connection.transaction():
                await connection.execute("SELECT 1 FROM run_outbox WHERE run_id = ANY ($1) FOR UPDATE", ids)
                await asyncio.sleep(hold.for_s)
            await asyncio.sleep(0.25)  # in which all that waited goes out
    except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.AdminShutdownError):
        return
    finally:
        connection.terminate()


async def _resume(stage: Stage, run_id: str, *, viewer: str) -> None:
    """A viewer comes back with what it has, sees that the stream goes on, and is cut off."""
    url = f"{stage.member('api-0').url}/api/agents/runs/{run_id}/stream"
    headers = {"User-Agent": viewer, "Last-Event-ID": "0"}

    async def seen() -> bool:  # a 503 is for later, as the API says
        async with stage.session.get(url, headers=headers) as answer:
            return answer.status == HTTPStatus.OK and bool(await answer.content.readline())

    await eventually(seen, within_s=PATIENCE_S)


async def _finished_run(stage: Stage) -> str:
    client = await stage.api()
    run = await client.start("golden")
    async for _ in client.stream(run):
        pass
    return run.run_id


async def _is(client: runwire.Client, run: runwire.StartedRun, state: RunState) -> bool:
    return (await client.run(run)).state is state


async def _published(stage: Stage, run_id: str) -> None:
    client = await stage.api()

    async def published() -> bool:
        run = await client.run(run_id)
        return 0 < run.published_seq == run.last_seq and run.state in (RunState.STARTED, RunState.WAITING)

    await eventually(published, within_s=PATIENCE_S)


async def _fires(stage: Stage, alert: str) -> bool:
    return bool(await stage.firing() & {alert, left_out(alert)})


async def _silent(stage: Stage, alert: str) -> bool:
    return not await _fires(stage, alert)


async def cancelled(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
