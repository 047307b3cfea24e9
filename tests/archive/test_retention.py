"""Retention's promise: everything is in cold storage and proven before anything leaves the log."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

import pytest

from archive.history import Archive, all_steps, archive, day, hot, read, run_of
from counting import count
from pipeline import raw, stages
from runwire.archive.cold import ColdLog
from runwire.archive.dropping import CARRY_AFTER_DAYS
from runwire.archive.format import zstd
from runwire.archive.metrics import Failure, Outcome
from runwire.archive.retention import Archiver, ArchiverBusy, Did
from runwire.archive.watching import Milestone, Watcher
from runwire.db.partitions import PartitionBusy
from runwire.errors import ArchiveCorrupt, ArchiveUnavailable
from runwire.model.event import Source, StoredEvent, debug_trace
from runwire.stream import LogReader


def reader_of(here: Archive) -> LogReader:
    return LogReader(here.database, cold=ColdLog(here.database, lambda: here.store, metrics=here.metrics))


async def test_runs_that_ended_long_ago_leave_the_log_and_read_as_before(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        logs = {f"old-{n}": await run_of(here.database, f"old-{n}", events=2 + 7 * n) for n in range(5)}
        logs["long"] = await run_of(here.database, "long", events=2500)
        young = await run_of(here.database, "young", days_ago=29)
        steps = await here.run()
        assert [step.did for step in steps] == [Did.WROTE, Did.VERIFIED, Did.DROPPED]
        assert await here.partitions() == [f"run_events_{day(29):%Y%m%d}"]
        reader = reader_of(here)
        for run_id, log in logs.items():
            assert await hot(here.database, run_id) == []
            assert await read(reader, run_id) == log
            for after in (0, 1, len(log) // 2, len(log) - 1):
                assert await read(reader, run_id, after=after) == log[after:]
                assert await read(reader, run_id, after=after, limit=3) == log[after : after + 3]
        assert await hot(here.database, "young") == young
        assert count(here.metrics.runs[Outcome.ARCHIVED]) == len(logs)
        assert count(here.metrics.runs[Outcome.DROPPED]) == len(logs)
        assert count(here.metrics.bytes) == here.data_file().stat().st_size


async def test_a_batch_can_be_read_with_nothing_but_zstd(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "r", events=3)
        await here.run()
        lines = zstd().decompress(here.data_file().read_bytes()).decode().splitlines()
    assert lines[0].startswith('{"format":"runwire-archive/1","runId":"r","runDay":"')
    assert len(lines) == 4
    assert lines[3].startswith('{"seq":3,"tsUs":')
    assert lines[3].endswith('"type":"RunFinished","source":"worker","v":1}')


async def test_a_day_waits_for_its_last_run(database: str, tmp_path: Path) -> None:
    """Its other runs are in cold storage by then, and still in the log."""
    async with archive(database, tmp_path) as here:
        log = await run_of(here.database, "over", days_ago=31)
        await run_of(here.database, "goes-on", days_ago=31, state="started")
        assert [step.did for step in await here.run()] == [Did.WROTE, Did.VERIFIED]
        assert await hot(here.database, "over") == log
        assert await here.run() == []


async def test_a_run_that_never_ends_keeps_its_own_events_only(database: str, tmp_path: Path) -> None:
    async with stages(database) as line:
        here = Archive(line.database, tmp_path / "archive")
        late = 30 + CARRY_AFTER_DAYS + 1
        log = await run_of(here.database, "over", days_ago=late, events=500)
        open_log = await run_of(here.database, "waits", days_ago=late, events=20, state="waiting")
        started = await run_of(here.database, "goes-on", days_ago=late, events=20, state="started")
        assert [step.did for step in await here.run()] == [Did.WROTE, Did.VERIFIED, Did.DROPPED]
        assert await hot(here.database, "over") == []
        assert await hot(here.database, "waits") == open_log
        assert await hot(here.database, "goes-on") == started
        assert await read(reader_of(here), "over") == log
        assert await here.run() == []  # and is left alone from now on
        # Its log goes on where it is.
        await line.log.append("goes-on", [debug_trace("still.here")], fence=0, source=Source.WORKER)
        assert len(await hot(here.database, "goes-on")) == 21


async def test_a_straggler_is_archived_when_it_is_over_and_its_day_goes(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        late = 30 + CARRY_AFTER_DAYS + 1
        await run_of(here.database, "over", days_ago=late)
        await run_of(here.database, "straggler", days_ago=late, state="started")
        await here.run()
        await here.database.execute("DELETE FROM run_outbox")
        log = await hot(here.database, "straggler")
        await here.database.execute("UPDATE run_events SET type = 'RunFinished', fn = NULL, name = NULL WHERE seq = 13")
        await here.database.execute(
            "UPDATE runs SET state = 'finished', finished_at = now() - interval '31 days' WHERE run_id = 'straggler'"
        )
        # As time would have: nobody finishes in the past.
        await here.database.execute("UPDATE archive_progress SET archived_all = archived_all - interval '40 days'")
        assert [step.did for step in await here.run()] == [Did.WROTE, Did.VERIFIED, Did.DROPPED]
        assert await here.partitions() == []
        assert (await read(reader_of(here), "straggler"))[:12] == log[:12]


async def test_a_run_whose_log_has_a_hole_is_left_for_the_audit(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "whole")
        await run_of(here.database, "broken", events=2200)
        await run_of(here.database, "whole-too")
        await here.database.execute("DELETE FROM run_events WHERE run_id = 'broken' AND seq = 2100")
        assert [step.did for step in await here.run()][:2] == [Did.WROTE, Did.VERIFIED]
        assert count(here.metrics.runs[Outcome.REFUSED]) == 1
        assert count(here.metrics.failures[Failure.BROKEN_LOG]) == 1
        assert len(await hot(here.database, "broken")) == 2199
        assert len(await read(reader_of(here), "whole-too")) == 13


async def test_unpublished_events_are_not_archived(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "r")
        await here.database.execute(
            "INSERT INTO run_outbox (run_id, run_day, next_seq) SELECT run_id, run_day, 5 FROM runs"
        )
        assert await here.run() == []


async def test_batches_are_bounded_by_runs_and_by_events(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        for n in range(7):
            await run_of(here.database, f"r{n}", events=10)
        await here.run(batch_runs=3, batch_events=20)
        sizes = await here.database.fetch("SELECT runs, events, state::text FROM archive_batches ORDER BY batch_id")
        assert [tuple(size) for size in sizes] == [(2, 20, "dropped")] * 3 + [(1, 10, "dropped")]
        assert len(await read(reader_of(here), "r6")) == 10


async def test_one_archiver_works_at_a_time(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        first, second = here.archiver(), here.archiver()
        await first.step()
        await first.step()  # again: the right is held, not taken twice
        with pytest.raises(ArchiverBusy):
            await second.step()
        await first.aclose()
        await second.step()
        await second.aclose()


@pytest.mark.parametrize("at", [0.1, 0.5, 0.95])
async def test_a_flipped_bit_is_found_before_anything_is_dropped(database: str, tmp_path: Path, at: float) -> None:
    async with archive(database, tmp_path) as here:
        logs = {f"r{n}": await run_of(here.database, f"r{n}", events=30) for n in range(20)}
        archiver = here.archiver()
        assert (await archiver.step()).did is Did.WROTE
        _flip(here.data_file(), at=at)
        with pytest.raises(ArchiveCorrupt):
            await archiver.step()
        assert await hot(here.database, "r7") == logs["r7"]
        # It is written anew, and then it is right.
        assert [step.did for step in await all_steps(archiver)] == [Did.WROTE, Did.VERIFIED, Did.DROPPED]
        assert await read(reader_of(here), "r7") == logs["r7"]
        await archiver.aclose()


async def test_a_manifest_that_does_not_fit_is_found(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "r")
        archiver = here.archiver()
        await archiver.step()
        [manifest] = here.folder.rglob("*.manifest.json")
        manifest.write_text(manifest.read_text().replace('"events": 13', '"events": 14'))
        with pytest.raises(ArchiveCorrupt, match="manifest"):
            await archiver.step()
        await archiver.aclose()


async def test_a_log_that_changed_since_it_was_written_is_not_dropped(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "r")
        archiver = here.archiver()
        await archiver.step()
        await here.database.execute("UPDATE run_events SET ts_us = ts_us + 1 WHERE seq = 5")
        with pytest.raises(ArchiveCorrupt, match="log of run"):
            await archiver.step()
        await archiver.aclose()


async def test_rows_that_came_after_the_proof_keep_the_day(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "r")
        archiver = here.archiver()
        await archiver.step()
        await archiver.step()
        await here.database.execute("DELETE FROM run_events WHERE seq = 5")
        with pytest.raises(ArchiveCorrupt, match="other events"):
            await archiver.step()
        assert len(await here.partitions()) == 1
        await archiver.aclose()


async def test_a_store_that_cannot_be_written_leaves_everything_where_it_is(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        log = await run_of(here.database, "r")
        archiver = here.archiver()
        here.folder.rmdir()
        here.folder.write_text("a file where the folder should be")
        with pytest.raises(ArchiveUnavailable):
            await archiver.step()
        assert await hot(here.database, "r") == log
        here.folder.unlink()
        here.folder.mkdir()
        assert [step.did for step in await all_steps(archiver)] == [Did.WROTE, Did.VERIFIED, Did.DROPPED]
        await archiver.aclose()


class Died(Exception):
    """The machine stopped here."""


class Dying(Watcher):
    """Stops at the `nth` milestone of a kind."""

    def __init__(self, at: Milestone) -> None:
        self._at = at

    def reached(self, milestone: Milestone, what: str) -> None:
        if milestone is self._at:
            raise Died(what)


OF_A_DAY = [
    Milestone.BEGUN,
    Milestone.DATA_STORED,
    Milestone.MANIFEST_STORED,
    Milestone.WRITTEN,
    Milestone.READ_BACK,
    Milestone.VERIFIED,
    Milestone.DETACHED,
    Milestone.TABLE_DROPPED,
    Milestone.DROPPED,
]


@pytest.mark.parametrize("at", OF_A_DAY)
async def test_whoever_comes_after_a_crash_finishes_the_work(database: str, tmp_path: Path, at: Milestone) -> None:
    async with archive(database, tmp_path) as here:
        logs = {f"r{n}": await run_of(here.database, f"r{n}", events=2 + n) for n in range(6)}
        await _dies(here, at)
        reader = reader_of(here)
        for run_id, log in logs.items():
            assert await read(reader, run_id) == log, f"unreadable after a crash at {at}"
        await here.run()
        await _all_is_archived(here, logs)
        assert len(list(here.folder.rglob("*.zst"))) == 1  # nothing is left over from the first try


async def test_a_crash_while_a_day_shrinks_is_finished_too(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        log = await run_of(here.database, "over")
        goes_on = await run_of(here.database, "goes-on", state="started")
        await _dies(here, Milestone.SHRUNK)
        assert await read(reader_of(here), "over") == log
        await here.run()
        assert await hot(here.database, "goes-on") == goes_on
        assert await here.database.fetchval("SELECT state::text FROM archive_batches") == "dropped"


async def _dies(here: Archive, at: Milestone) -> None:
    archiver = here.archiver(watcher=Dying(at))
    with pytest.raises(Died):
        await all_steps(archiver)
    await archiver.aclose()


async def _all_is_archived(here: Archive, logs: dict[str, list[StoredEvent]]) -> None:
    assert await here.partitions() == []
    batches = await here.database.fetch("SELECT state::text, runs FROM archive_batches")
    assert [tuple(batch) for batch in batches] == [("dropped", len(logs))]
    for run_id, log in logs.items():
        assert await read(reader_of(here), run_id) == log


async def test_a_partition_somebody_reads_is_detached_when_they_are_done(database: str, tmp_path: Path) -> None:
    """And meanwhile appends go on, as they do while the partition of a new day is made."""
    async with stages(database) as line:
        here = Archive(line.database, tmp_path / "archive")
        log = await run_of(here.database, "old")
        fence = await line.started_run("new")
        long_reader = await raw(database)
        transaction = long_reader.transaction()
        await transaction.start()
        assert await long_reader.fetchval("SELECT count(*) FROM run_events") == 14
        archiver: Archiver = here.archiver()
        detaching = asyncio.create_task(_until_busy(archiver))
        made = asyncio.create_task(here.database.fetchval("SELECT make_event_partition($1)", dt.date(2030, 1, 1)))
        for _ in range(50):
            async with asyncio.timeout(5):
                await line.log.append("new", [debug_trace("goes.on")], fence=fence, source=Source.API)
        assert await made is True
        await detaching
        assert await long_reader.fetchval("SELECT count(*) FROM run_events") >= 14
        assert await read(reader_of(here), "old") == log
        await transaction.rollback()
        await all_steps(archiver)
        assert await here.partitions() == []
        await archiver.aclose()
        await long_reader.close()


async def _until_busy(archiver: Archiver) -> None:
    with pytest.raises(PartitionBusy):
        await all_steps(archiver)


def _flip(file: Path, *, at: float) -> None:
    data = bytearray(file.read_bytes())
    data[int(len(data) * at)] ^= 0x10
    file.write_bytes(data)
