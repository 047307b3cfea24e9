"""Events that are stored while their day is on its way out of the log: none is lost, wherever they come between."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from archive.history import LONG_AGO, Archive, all_steps, archive, day, hot, read, run_of
from pipeline import Stages, raw, stages
from runwire.agents.golden import golden
from runwire.archive.cold import ColdLog
from runwire.archive.dropping import CARRY_AFTER_DAYS
from runwire.archive.object_store import ObjectStorage
from runwire.archive.retention import ArchiverBusy, Did
from runwire.archive.watching import Milestone, Watcher
from runwire.db.partitions import EventPartitions, PartitionBusy, PartitionStatus, partition_of
from runwire.model.event import EventType
from runwire.orchestrate import StartRequest
from runwire.stream import LogReader
from waiting import eventually

Act = Callable[["asyncpg.Connection[asyncpg.Record]"], Awaitable[object]]
LATE_US = 1_700_000_000_000_000


class Stepping(Watcher):
    """Lets a second session act, to its end, the first time that a milestone is reached."""

    def __init__(self, dsn: str, at: Milestone, act: Act) -> None:
        self._dsn, self._at, self._act = dsn, at, act
        self.reached_by_then: list[Milestone] = []
        self.acted = False

    def reached(self, milestone: Milestone, what: str) -> None:  # noqa: ARG002  # the base class has it
        self.reached_by_then.append(milestone)
        if milestone is self._at and not self.acted:
            self.acted = True
            second = threading.Thread(target=lambda: asyncio.run(self._do()))
            second.start()
            second.join()

    async def _do(self) -> None:
        connection = await asyncpg.connect(self._dsn)
        try:
            await self._act(connection)
        finally:
            await connection.close()


async def begins_late(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """A run that is there from one moment to the next, with one event, however it came to be of that day."""
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO runs (run_id, run_day, agent, state, last_seq, started_at, request_hash, input)"
            " VALUES ('late', $1, 'elsewhere', 'started', 1, now(), '', '')",
            day(LONG_AGO),
        )
        await connection.execute("INSERT INTO run_outbox (run_id, run_day) VALUES ('late', $1)", day(LONG_AGO))
        await connection.execute(
            # Into the day's table: an append that found it while it was part of the log ends up there.
            f"INSERT INTO {partition_of(day(LONG_AGO))} (run_day, run_id, seq, ts_us, type, source)"  # noqa: S608  # ours
            " VALUES ($1, 'late', 1, $2, 'RunStarted', 'worker')",
            day(LONG_AGO),
            LATE_US,
        )


async def begins_and_ends_late(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """As before, and it is over before anybody looks again: no open run says that it was there."""
    await begins_late(connection)
    async with connection.transaction():
        await connection.execute(
            f"INSERT INTO {partition_of(day(LONG_AGO))} (run_day, run_id, seq, ts_us, type, source)"  # noqa: S608  # ours
            " VALUES ($1, 'late', 2, $2, 'RunFinished', 'worker')",
            day(LONG_AGO),
            LATE_US + 1,
        )
        await connection.execute(
            "UPDATE runs SET state = 'finished', last_seq = 2, finished_at = now() WHERE run_id = 'late'"
        )
        await connection.execute("DELETE FROM run_outbox WHERE run_id = 'late'")


ACTS = {"goes on": (begins_late, 1), "is over": (begins_and_ends_late, 2)}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("at", [Milestone.FREE, Milestone.DETACHED])
async def test_events_that_come_after_the_day_was_found_free_bring_it_back(
    database: str, tmp_path: Path, at: Milestone, act: str
) -> None:
    acts, events = ACTS[act]
    async with archive(database, tmp_path) as here:
        log = await run_of(here.database, "old")
        stepping = Stepping(database, at, acts)
        archiver = here.archiver(watcher=stepping)
        await all_steps(archiver)
        assert stepping.acted
        assert Milestone.TABLE_DROPPED not in stepping.reached_by_then
        assert [event.seq for event in await hot(here.database, "late")] == list(range(1, events + 1))
        assert await read(reader_of(here), "old") == log
        await archiver.aclose()


async def test_a_pending_run_keeps_its_day(database: str, tmp_path: Path) -> None:
    """Nothing of it is in the partition, and yet it is the day that it will write to."""
    async with stages(database, golden) as line:
        here = Archive(line.database, tmp_path / "archive")
        await run_of(here.database, "old", days_ago=31)
        await pending_of(line, "not-yet", days_ago=31)
        assert [step.did for step in await here.run()] == [Did.WROTE, Did.VERIFIED]
        await walked(line, "not-yet")
        assert await here.partitions() == [partition_of(day(31))]


async def test_a_pending_run_is_walked_to_its_end_while_an_overdue_day_shrinks(database: str, tmp_path: Path) -> None:
    async with stages(database, golden) as line:
        here = Archive(line.database, tmp_path / "archive")
        log = await run_of(here.database, "old", days_ago=LONG_AGO)
        await pending_of(line, "late", days_ago=LONG_AGO)
        assert LONG_AGO > 30 + CARRY_AFTER_DAYS
        archiving = asyncio.create_task(until_not_busy(here))
        await walked(line, "late")
        await archiving
        assert len(await hot(here.database, "late")) == 13
        assert await read(reader_of(here), "old") == log


@pytest.mark.parametrize("mode", ["SHARE UPDATE EXCLUSIVE", "SHARE ROW EXCLUSIVE"])
async def test_events_stored_while_the_detaching_waits_for_a_lock_bring_the_day_back(
    database: str, tmp_path: Path, mode: str
) -> None:
    """As ANALYZE or another's DDL takes it. Events that are stored while it is held are in the log."""
    async with archive(database, tmp_path) as here:
        log = await run_of(here.database, "old")
        blocker = await raw(database)
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute(f"LOCK TABLE run_events IN {mode} MODE")
        archiving = asyncio.create_task(here.run())
        await eventually(lambda: waits_for_a_lock(here, "ALTER TABLE run_events DETACH"))
        # By the one who has the lock, since some modes hold appends up, too.
        await begins_late(blocker)
        await transaction.commit()
        await archiving
        assert len(await hot(here.database, "late")) == 1
        assert await read(reader_of(here), "old") == log
        await blocker.close()


async def test_a_day_that_waits_for_a_reader_comes_back_with_what_was_stored_meanwhile(
    database: str, tmp_path: Path
) -> None:
    """Detaching has begun, and waits for one who reads: the events came before that, the look that finds them after."""
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "old")
        reader = await raw(database)
        transaction = reader.transaction()
        await transaction.start()
        assert await reader.fetchval("SELECT count(*) FROM run_events") == 13
        stepping = Stepping(database, Milestone.FREE, begins_late)
        archiver = here.archiver(watcher=stepping)
        with pytest.raises(PartitionBusy):
            await all_steps(archiver)
        assert stepping.acted
        assert await EventPartitions(here.database).status(day(LONG_AGO)) is PartitionStatus.DETACHING
        await transaction.rollback()
        await all_steps(archiver)
        assert await EventPartitions(here.database).status(day(LONG_AGO)) is PartitionStatus.ATTACHED
        assert len(await hot(here.database, "late")) == 1
        await archiver.aclose()
        await reader.close()


async def test_shrinking_keeps_what_was_stored_since_the_look_before_it(database: str, tmp_path: Path) -> None:
    """A writer that waits for the lock wrote rows before the swap, and the swap must not drop them."""
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "over", days_ago=LONG_AGO)
        goes_on = await run_of(here.database, "goes-on", days_ago=LONG_AGO, state="started")
        archiver = here.archiver()
        assert [(await archiver.step()).did for _ in range(2)] == [Did.WROTE, Did.VERIFIED]
        held = await archiver.ledger.held(day(LONG_AGO))
        assert {one.run_id for one in held} == {"goes-on"}
        second = await raw(database)
        await begins_late(second)
        assert await EventPartitions(here.database).shrink(day(LONG_AGO), at_most=100) == len(goes_on) + 1
        assert len(await hot(here.database, "late")) == 1
        assert await hot(here.database, "goes-on") == goes_on
        assert await hot(here.database, "over") == []
        assert await EventPartitions(here.database).shrink(day(LONG_AGO), at_most=len(goes_on)) is None
        assert await hot(here.database, "goes-on") == goes_on
        await second.close()
        await archiver.aclose()


async def test_a_table_that_is_part_of_the_log_again_is_not_dropped(database: str, tmp_path: Path) -> None:
    """Two who drop and restore at once, since one lost its lock without knowing: the other's day stays."""
    async with archive(database, tmp_path) as here:
        log = await run_of(here.database, "old")
        partitions = EventPartitions(here.database)
        await partitions.detach(day(LONG_AGO))
        assert await partitions.make(day(LONG_AGO)) is True
        assert await partitions.drop(day(LONG_AGO)) is False
        assert await hot(here.database, "old") == log


async def test_a_batch_that_was_written_anew_is_not_taken_for_the_one_that_was_read(
    database: str, tmp_path: Path
) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "old")
        archiver = here.archiver()
        await archiver.step()
        [read_back] = await archiver.ledger.unfinished()
        await here.database.execute("UPDATE archive_batches SET sha256 = sha256('another')")
        assert await archiver.ledger.verified(read_back) is False
        assert [batch.state.value for batch in await archiver.ledger.batches()] == ["written"]
        await archiver.aclose()


async def test_an_archiver_that_lost_its_lock_writes_over_nothing(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with archive(database, tmp_path) as here:
        logs = {"old": await run_of(here.database, "old")}
        stands, goes_on = asyncio.Event(), asyncio.Event()
        put = ObjectStorage.put

        async def late(store: ObjectStorage, path: str, data: bytes | Path) -> None:
            if path.endswith(".jsonl.zst") and not stands.is_set():
                stands.set()
                await goes_on.wait()
            await put(store, path, data)

        monkeypatch.setattr(ObjectStorage, "put", late)
        first = here.archiver()
        step = asyncio.create_task(first.step())
        await asyncio.wait_for(stands.wait(), 20)
        assert await here.database.fetchval(
            "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_locks WHERE locktype = 'advisory'"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        logs["older"] = await run_of(here.database, "older")  # so the second file is another one than the first
        await here.run()
        goes_on.set()
        with pytest.raises(ArchiverBusy):
            await step
        await first.aclose()
        recorded = await here.database.fetch("SELECT path, sha256 FROM archive_batches")
        assert [here.folder / row["path"] for row in recorded] == [here.data_file()]
        assert hashlib.sha256(here.data_file().read_bytes()).digest() == recorded[0]["sha256"]
        assert len(list(here.folder.rglob("*.manifest.json"))) == 1
        assert {run_id: await read(reader_of(here), run_id) for run_id in logs} == logs


def reader_of(here: Archive) -> LogReader:
    return LogReader(here.database, cold=ColdLog(here.database, lambda: here.store, metrics=here.metrics))


async def until_not_busy(here: Archive) -> None:
    """Archives, as the worker does: again, when somebody was in the way."""
    while True:
        try:
            await here.run()
        except PartitionBusy:
            continue
        return


async def waits_for_a_lock(here: Archive, statement: str) -> bool:
    return bool(
        await here.database.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND starts_with(query, $1))",
            statement,
        )
    )


async def pending_of(line: Stages, run_id: str, *, days_ago: int) -> None:
    """A run that was started so long ago and that no worker has claimed."""
    await line.control.start(StartRequest(agent="golden", run_id=run_id))
    for table in ("runs", "run_outbox"):
        await line.database.execute(f"UPDATE {table} SET run_day = $2 WHERE run_id = $1", run_id, day(days_ago))  # noqa: S608  # ours


async def walked(line: Stages, run_id: str) -> None:
    """A worker claims it and walks it to its end."""
    worker = line.worker(worker_poll_s=0.05)
    walking = asyncio.create_task(worker.run())
    await eventually(lambda: line.database.fetchval("SELECT finished_at FROM runs WHERE run_id = $1", run_id))
    await worker.drain(within_s=5)
    await walking
    assert (await line.events(run_id))[-1][1] == EventType.RUN_FINISHED.value
