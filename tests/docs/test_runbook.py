"""Every query of the documentation runs as written, and the runbook's find what they are for."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import asyncpg
import pytest

from archive.history import archive, run_of
from docs.pages import RUNBOOK, blocks, pages
from pipeline import RecordingBus, Stages, running, stages
from runbook import STEPS, StepFailed, done, interpolated, looker
from runwire.append import Change
from runwire.db.notify import RUNS_CLAIMABLE, RUNS_DIRTY
from runwire.model.event import RUN_FINISHED, Source, debug_trace
from runwire.model.graph import Agent, Context, Wait
from runwire.model.run import RunState
from runwire.orchestrate import StartRequest
from runwire.publish import PublishWorker
from runwire.publish.settings import PublishSettings
from waiting import eventually

QUERIES = [block for page in pages() for block in blocks(page, "sql")]
LOOKING = [title for title in STEPS if not title.startswith("changes data")]
CHANGING = [title for title in STEPS if title.startswith("changes data")]
needs_psql = pytest.mark.skipif(shutil.which("psql") is None, reason="needs psql")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

asking = Agent("asking", start="Ask", state=dict)

QUICK = PublishSettings(publish_sweep_s=0.05)


@asking.node(to="Act")
async def ask(_ctx: Context, _state: dict[str, Any]) -> Wait:
    return Wait("approved", then="Act")


@asking.node()
async def act(_ctx: Context, _state: dict[str, Any]) -> None:
    return None


@pytest.fixture
async def pipeline(database: str) -> AsyncIterator[Stages]:
    async with stages(database, asking) as made:
        yield made


@pytest.fixture
async def shell(database: str) -> AsyncIterator[Connection]:
    """The connection of the person on call, which is not runwire's."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


def step(title: str, *, run_id: str = "nobody", **variables: str) -> str:
    return interpolated(STEPS[title], RUN_ID=run_id, **variables)


async def found(shell: Connection, title: str, *, run_id: str = "nobody") -> list[str]:
    """The run ids a query of the runbook names."""
    return [row["run_id"] for row in await shell.fetch(step(title, run_id=run_id))]


async def healthy(pipeline: Stages) -> None:
    """A finished run, an open one and a pending one, all published: nothing here is wrong."""
    fence = await pipeline.started_run("done")
    await pipeline.log.append(
        "done", [debug_trace("a.b"), RUN_FINISHED], fence=fence, source=Source.API, change=Change(RunState.FINISHED)
    )
    await pipeline.started_run("open")
    await pipeline.control.start(StartRequest(agent="asking", run_id="pending"))
    await publish(pipeline)


async def publish(pipeline: Stages) -> RecordingBus:
    bus = RecordingBus()
    publisher = pipeline.publisher(bus)
    await publisher.sweep()
    while await publisher.publish_pending():
        pass
    await publisher.aclose()
    return bus


# ---------------------------------------------------------------------- all of them


@needs_psql
async def test_every_step_that_looks_runs_as_printed_for_a_role_that_only_looks(
    pipeline: Stages, database: str
) -> None:
    await healthy(pipeline)
    async with looker(database) as url:
        for title in LOOKING:
            await done(title, database=url, RUN_ID="open")
        assert "open" in await done("where a run is", database=url, RUN_ID="open")
        assert "(0 rows)" in await done("where a run is", database=url, RUN_ID="nobody")


@needs_psql
async def test_a_role_that_may_not_see_all_rows_gets_an_error_and_no_zeros(pipeline: Stages, database: str) -> None:
    await healthy(pipeline)
    async with looker(database) as url:
        name = urlsplit(url).username
        await pipeline.database.execute(f"ALTER ROLE {name} NOBYPASSRLS")
        with pytest.raises(StepFailed, match="row-level security"):
            await done("pipeline at a glance", database=url)


@needs_psql
async def test_a_role_that_only_looks_sees_no_users_data_and_changes_nothing(pipeline: Stages, database: str) -> None:
    async with looker(database) as url:
        connection = await asyncpg.connect(url)
        try:
            for column, table in (
                ("input", "runs"),
                ("state", "run_checkpoints"),
                ("data", "run_signals"),
                ("data", "content_blobs"),
                ("bytes", "part_chunks"),
                ("tail", "parts"),
                ("*", "service_secrets"),
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(f"SELECT {column} FROM {table}")  # noqa: S608  # ours
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("DELETE FROM audit_findings")
        finally:
            await connection.close()
        with pytest.raises(StepFailed):
            await done("changes data: publishes a run again from its first event", database=url)


@needs_psql
async def test_every_step_that_changes_data_runs_as_printed(pipeline: Stages, database: str, shell: Connection) -> None:
    await healthy(pipeline)
    await shell.execute("CREATE TABLE IF NOT EXISTS run_events_20260101 PARTITION OF run_events "
                        "FOR VALUES FROM ('2026-01-01') TO ('2026-01-02')")  # fmt: skip
    name = f"looks_{uuid.uuid4().hex[:10]}"
    for title in CHANGING:
        await done(title, database=database, RUN_ID="open", LOOKER=name, PROGRAM="nobody")
    assert not await shell.fetchval("SELECT to_regclass('run_events_20260101') IS NOT NULL")
    await shell.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_every_query_says_what_it_is_and_whether_it_changes_data() -> None:
    changing = (
        *("INSERT", "UPDATE", "DELETE", "DROP", "ALTER", "CREATE"),
        *("pg_terminate_backend", "ensure_event_partitions", "runwire_let_look"),
    )
    for query in QUERIES:
        assert query.title, query.where
        assert query.text.rstrip().endswith(";"), query.where
        assert query.text.count(";") == 1, query.where
        body = query.text.partition("\n")[2]
        assert query.title.startswith("changes data") == any(word in body for word in changing), query.where


def test_titles_in_the_runbook_are_distinct() -> None:
    assert len(STEPS) == len(blocks(RUNBOOK, "sql"))


QUIET = [
    "stalled runs",
    "waiting runs",
    "external runs whose lease has ended",
    "unpublished backlog",
    "who blocks whom",
    "old transactions",
    "open runs that nobody publishes",
    "runs with a gap",
    "runs whose end and state disagree",
    "cursors beyond their log",
    "missing partitions",
    "guards that are off",
    "days older than 31 days",
]


@pytest.mark.parametrize("title", QUIET)
async def test_a_query_that_looks_for_trouble_finds_none_in_a_healthy_pipeline(
    title: str, pipeline: Stages, shell: Connection
) -> None:
    await healthy(pipeline)
    assert await shell.fetch(step(title)) == []


# ---------------------------------------------------------------------- run stuck


async def test_a_run_whose_owner_died_is_found_as_stalled(pipeline: Stages, shell: Connection) -> None:
    await healthy(pipeline)
    await shell.execute(
        "UPDATE runs SET started_at = now() - interval '11 minutes', lease_until = now() - interval '10 minutes' "
        "WHERE run_id = 'open'"
    )
    (row,) = await shell.fetch(step("stalled runs"))
    assert (row["run_id"], row["lease_ended"]) == ("open", True)
    where = await shell.fetchrow(step("where a run is", run_id="open"))
    assert where is not None
    assert (where["state"], where["lease_ended"], where["external"]) == ("started", True, True)
    glance = await shell.fetchrow(step("pipeline at a glance"))
    assert glance is not None
    assert (glance["pending"], glance["started"], glance["without_owner"]) == (1, 1, 1)
    assert await found(shell, "external runs whose lease has ended") == ["open"]


async def test_where_a_run_is_says_how_much_of_it_is_published(pipeline: Stages, shell: Connection) -> None:
    await healthy(pipeline)
    done = await shell.fetchrow(step("where a run is", run_id="done"))
    assert done is not None
    assert (done["last_seq"], done["published_seq"]) == (3, 3)
    await pipeline.log.append("open", [debug_trace("more")], fence=1, source=Source.API)
    ahead = await shell.fetchrow(step("where a run is", run_id="open"))
    assert ahead is not None
    assert (ahead["last_seq"], ahead["published_seq"]) == (2, 1)


async def test_the_last_events_of_a_run_are_shown_newest_first(pipeline: Stages, shell: Connection) -> None:
    await healthy(pipeline)
    rows = await shell.fetch(step("last events of a run", run_id="done"))
    assert [(row["seq"], row["type"]) for row in rows] == [(3, "RunFinished"), (2, "DebugTrace"), (1, "RunStarted")]


async def test_owners_of_leases_are_told_apart_by_whether_they_live(pipeline: Stages, shell: Connection) -> None:
    await pipeline.started_run("theirs")
    rows = await shell.fetch(step("owners of leases"))
    assert [(row["lease_owner"], row["alive"]) for row in rows] == [("external", True)]
    await shell.execute("UPDATE runs SET lease_until = now() - interval '1 second'")
    rows = await shell.fetch(step("owners of leases"))
    assert [(row["lease_owner"], row["alive"]) for row in rows] == [("external", False)]


async def test_a_waiting_run_is_found_and_whether_it_was_signalled(pipeline: Stages, shell: Connection) -> None:
    await pipeline.control.start(StartRequest(agent="asking", run_id="asks"))
    worker = pipeline.worker()
    await worker.claim()
    await eventually(lambda: worker.active == 0)
    (row,) = await shell.fetch(step("waiting runs"))
    assert (row["run_id"], row["waiting_for"], row["signalled"]) == ("asks", "approved", False)
    await pipeline.control.signal("asks", "approved")
    (row,) = await shell.fetch(step("waiting runs"))
    assert row["signalled"]


@pytest.mark.parametrize(
    ("title", "channel", "payload"),
    [("wake the workers", RUNS_CLAIMABLE, "golden"), ("nudge the publisher", RUNS_DIRTY, "open")],
)
async def test_a_nudge_reaches_who_listens(
    title: str, channel: str, payload: str, database: str, shell: Connection
) -> None:
    heard: list[object] = []
    listening = await asyncpg.connect(database)
    await listening.add_listener(channel, lambda *call: heard.append(call[-1]))
    await shell.execute(step(title, run_id="open"))
    await eventually(lambda: heard == [payload])
    await listening.close()


# ---------------------------------------------------------------------- outbox lag


async def test_an_unpublished_backlog_is_found_with_its_age(pipeline: Stages, shell: Connection) -> None:
    await healthy(pipeline)
    await pipeline.log.append("open", [debug_trace("a"), debug_trace("b")], fence=1, source=Source.API)
    (row,) = await shell.fetch(step("unpublished backlog"))
    assert (row["run_id"], row["next_seq"], row["last_seq"], row["backlog"]) == ("open", 2, 3, 2)
    assert row["oldest_waits"].total_seconds() > 0
    total = await shell.fetchrow(step("backlog in all"))
    assert total is not None
    assert tuple(total) == (1, 2)
    await publish(pipeline)
    assert await shell.fetch(step("unpublished backlog")) == []


async def test_a_publisher_shows_that_it_lives(pipeline: Stages, shell: Connection) -> None:
    assert await shell.fetch(step("publishers")) == []
    async with running(PublishWorker(pipeline.publisher(RecordingBus()), settings=QUICK)):
        (row,) = await eventually(lambda: shell.fetch(step("publishers")))
        assert row["quiet_for"].total_seconds() < 5
    assert await shell.fetch(step("publishers")) == []


async def test_a_publisher_that_cannot_publish_says_so(pipeline: Stages, shell: Connection) -> None:
    await healthy(pipeline)
    await pipeline.log.append("open", [debug_trace("a")], fence=1, source=Source.API)

    async def failing() -> str | None:
        rows = await shell.fetch(step("publishers"))
        return rows[0]["failing_code"] if rows else None

    refusing = RecordingBus(refuse=lambda _message: True)
    async with running(PublishWorker(pipeline.publisher(refusing), settings=QUICK)):
        assert await eventually(failing) == "bus_unavailable"
        assert await found(shell, "unpublished backlog") == ["open"]


async def test_who_holds_a_lock_and_who_sits_in_an_old_transaction_is_named(
    pipeline: Stages, database: str, shell: Connection
) -> None:
    await healthy(pipeline)
    holder, waiter = await asyncpg.connect(database), await asyncpg.connect(database)
    holding = holder.transaction()
    await holding.start()
    await holder.execute("UPDATE runs SET error_code = 'held' WHERE run_id = 'open'")
    waiting = asyncio.create_task(waiter.execute("UPDATE runs SET error_code = NULL WHERE run_id = 'open'"))
    (row,) = await eventually(lambda: shell.fetch(step("who blocks whom")))
    assert (row["pid"], row["by_pid"]) == (waiter.get_server_pid(), holder.get_server_pid())
    assert row["by_state"] == "idle in transaction"
    sooner = step("old transactions", OLDER="0 seconds")
    assert holder.get_server_pid() in [row["pid"] for row in await shell.fetch(sooner)]
    ending = step("changes data: ends other people's forgotten transactions", OLDER="0 seconds")
    assert [row["pid"] for row in await shell.fetch(ending)] == [holder.get_server_pid()]
    await waiting
    await waiter.close()
    holder.terminate()


# ---------------------------------------------------------------------- rebuild stream


@pytest.mark.parametrize(("run_id", "seqs"), [("done", [1, 2, 3]), ("open", [1])])
async def test_a_run_published_again_goes_out_from_its_first_event_and_is_published_once_more(
    run_id: str, seqs: list[int], pipeline: Stages, shell: Connection
) -> None:
    await healthy(pipeline)
    await shell.execute(step("changes data: publishes a run again from its first event", run_id=run_id))
    bus = await publish(pipeline)
    assert bus.seqs(run_id) == seqs
    assert await shell.fetch(step("unpublished backlog")) == []
    left = await shell.fetchval("SELECT count(*) FROM run_outbox WHERE run_id = $1", run_id)
    assert left == (0 if run_id == "done" else 1)


async def test_an_open_run_without_an_outbox_row_is_found_and_mended(pipeline: Stages, shell: Connection) -> None:
    await healthy(pipeline)
    await shell.execute("DELETE FROM run_outbox WHERE run_id = 'open'")
    assert await found(shell, "open runs that nobody publishes") == ["open"]
    await shell.execute(step("changes data: publishes a run again from its first event", run_id="open"))
    assert await found(shell, "open runs that nobody publishes") == []
    assert (await publish(pipeline)).seqs("open") == [1]


# ---------------------------------------------------------------------- broken invariants


async def test_a_deleted_event_is_found_as_a_gap_with_its_seq(pipeline: Stages, shell: Connection) -> None:
    await healthy(pipeline)
    await shell.execute("DELETE FROM run_events WHERE run_id = 'done' AND seq = 2")
    (row,) = await shell.fetch(step("runs with a gap"))
    assert (row["run_id"], row["last_seq"], row["stored"]) == ("done", 3, 2)
    missing = await shell.fetch(step("missing seqs of a run", run_id="done"))
    assert [row["missing_seq"] for row in missing] == [2]


async def test_a_backlog_whose_next_event_is_gone_shows_no_age(pipeline: Stages, shell: Connection) -> None:
    await healthy(pipeline)
    await pipeline.log.append("open", [debug_trace("a"), debug_trace("b")], fence=1, source=Source.API)
    await shell.execute("DELETE FROM run_events WHERE run_id = 'open' AND seq = 2")
    (row,) = await shell.fetch(step("unpublished backlog"))
    assert (row["run_id"], row["oldest_waits"]) == ("open", None)


async def test_a_lost_terminal_event_is_found(pipeline: Stages, shell: Connection) -> None:
    await healthy(pipeline)
    await shell.execute("DELETE FROM run_events WHERE run_id = 'done' AND seq = 3")
    assert await found(shell, "runs whose end and state disagree") == ["done"]
    assert await found(shell, "runs with a gap") == ["done"]


async def test_a_cursor_that_was_set_forward_is_found(pipeline: Stages, shell: Connection) -> None:
    await healthy(pipeline)
    await shell.execute("UPDATE run_outbox SET next_seq = 9 WHERE run_id = 'open'")
    assert await found(shell, "cursors beyond their log") == ["open"]


# ---------------------------------------------------------------------- schema and retention


@pytest.mark.parametrize(
    ("sabotage", "named"),
    [
        ("ALTER TABLE runs DISABLE TRIGGER runs_transition", "trigger runs_transition"),
        ("DROP TRIGGER runs_transition ON runs", "missing runs_transition"),
        ("DROP INDEX run_events_one_terminal", "missing run_events_one_terminal"),
        ("ALTER TABLE run_events DROP CONSTRAINT run_events_started_first", "missing run_events_started_first"),
    ],
)
async def test_a_guard_that_is_off_is_named(sabotage: str, named: str, database: str, shell: Connection) -> None:
    await shell.execute(sabotage)
    assert [row["guard"] for row in await shell.fetch(step("guards that are off"))] == [named]


async def test_a_missing_partition_is_found_and_made(database: str, shell: Connection) -> None:
    day = await shell.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date + 3")
    await shell.execute(f"DROP TABLE run_events_{day:%Y%m%d}")
    assert [row["missing_day"] for row in await shell.fetch(step("missing partitions"))] == [day]
    made = await shell.fetchval(step("changes data: makes the partitions of the next 7 days"))
    assert made == 1
    assert await shell.fetch(step("missing partitions")) == []


async def test_a_day_is_safe_to_drop_only_when_nothing_open_lives_in_it(pipeline: Stages, shell: Connection) -> None:
    await healthy(pipeline)
    await shell.execute("UPDATE runs SET run_day = '2026-01-01' WHERE run_id IN ('done', 'open')")
    await shell.execute("UPDATE run_outbox SET run_day = '2026-01-01' WHERE run_id = 'open'")
    (row,) = await shell.fetch(step("days older than 31 days"))
    assert (row["runs"], row["open_runs"], row["not_fully_published"], row["has_events"]) == (2, 1, 1, False)


async def test_the_size_of_every_day_is_listed(database: str, shell: Connection) -> None:
    rows = await shell.fetch(step("size by day"))
    kept = await shell.fetchval("SELECT count(*) FROM pg_inherits WHERE inhparent = 'run_events'::regclass")
    assert len(rows) == kept > 7


async def test_what_the_archive_has_and_lacks_is_listed(database: str, shell: Connection, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "archived")
        await here.run()
        await run_of(here.database, "left", days_ago=50)
        (batch,) = await shell.fetch(step("batches of the archive"))
        assert (batch["state"], batch["runs"], batch["events"]) == ("dropped", 1, 13)
        assert await found(shell, "runs that ended long ago and are not archived") == ["left"]
        (place,) = await shell.fetch(step("where an archived run is", run_id="archived"))
        assert (place["batch_id"], place["begins"], len(place["chain"])) == (batch["batch_id"], 0, 64)
