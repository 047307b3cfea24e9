"""Restoring: what is in cold storage, back in PostgreSQL, for a while."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from obstore.store import LocalStore

from archive.history import Archive, all_steps, archive, hot, read, run_of
from counting import count
from runwire.archive import audit
from runwire.archive.audit import ColdAudit
from runwire.archive.cold import ColdLog
from runwire.archive.ledger import Batch
from runwire.archive.metrics import Failure
from runwire.archive.object_store import ObjectStorage
from runwire.archive.restoring import Restorer
from runwire.archive.retention import Did
from runwire.archive.watching import Milestone, Watcher
from runwire.db.partitions import EventPartitions
from runwire.errors import ArchiveCorrupt, RunNotFound
from runwire.observe import Observer, ObserverMetrics
from runwire.stream import LogReader
from runwire.telemetry.exposition import Exposition


def restorer_of(here: Archive, watcher: Watcher | None = None) -> Restorer:
    ledger = here.archiver().ledger
    return Restorer(ledger, EventPartitions(here.database), here.store, watcher=watcher or Watcher())


async def only_batch(here: Archive) -> Batch:
    [batch] = await here.archiver().ledger.batches()
    return batch


async def everything(here: Archive) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await here.database.fetch("SELECT * FROM run_events ORDER BY run_id, seq")]


async def test_a_restored_batch_has_every_column_it_had(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        for n in range(3):
            await run_of(here.database, f"r{n}", events=900)
        before = await everything(here)
        await here.run()
        assert await everything(here) == []
        restored = await restorer_of(here).batch(await only_batch(here), keep_days=1)
        assert (restored.runs, restored.events) == (3, 2700)
        assert await everything(here) == before
        assert await here.run() == []  # it is kept for a day
        await here.database.execute("UPDATE archive_batches SET keep_until = now() - interval '1 second'")
        # And dropped again without being written again.
        assert [step.did for step in await here.run()] == [Did.DROPPED]
        assert await everything(here) == []


async def test_one_run_is_restored_alone(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        logs = {f"r{n}": await run_of(here.database, f"r{n}", events=50) for n in range(3)}
        await here.run()
        await restorer_of(here).run("r1", keep_days=1)
        assert await hot(here.database, "r1") == logs["r1"]
        assert await hot(here.database, "r0") == []
        reader = LogReader(here.database, cold=ColdLog(here.database, lambda: here.store, metrics=here.metrics))
        assert {run_id: await read(reader, run_id) for run_id in logs} == logs
        await here.database.execute("UPDATE archive_batches SET keep_until = now() - interval '1 second'")
        assert [step.did for step in await here.run()] == [Did.DROPPED]
        assert await here.partitions() == []


async def test_what_was_never_archived_cannot_be_restored(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "young", days_ago=1)
        with pytest.raises(RunNotFound):
            await restorer_of(here).run("young", keep_days=1)


async def test_what_is_not_what_was_archived_is_not_put_back(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "r", events=50)
        await here.run()
        data = bytearray(here.data_file().read_bytes())
        data[-20] ^= 4
        here.data_file().write_bytes(data)
        with pytest.raises(ArchiveCorrupt):
            await restorer_of(here).batch(await only_batch(here), keep_days=1)
        assert await everything(here) == []


class _Died(Exception):
    pass


class _Dying(Watcher):
    def __init__(self, at: Milestone) -> None:
        self._at = at

    def reached(self, milestone: Milestone, what: str) -> None:
        if milestone is self._at:
            raise _Died(what)


@pytest.mark.parametrize("at", [Milestone.PARTITION_MADE, Milestone.PUT_BACK, Milestone.RESTORED])
async def test_a_restore_that_was_cut_off_is_repeated(database: str, tmp_path: Path, at: Milestone) -> None:
    async with archive(database, tmp_path) as here:
        for n in range(3):
            await run_of(here.database, f"r{n}", events=4100)
        before = await everything(here)
        await here.run()
        batch = await only_batch(here)
        with pytest.raises(_Died):
            await restorer_of(here, _Dying(at)).batch(batch, keep_days=1)
        assert len(await everything(here)) % 4100 == 0
        await restorer_of(here).batch(batch, keep_days=1)
        assert await everything(here) == before


async def test_a_day_half_way_out_can_be_restored(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "r")
        before = await everything(here)
        archiver = here.archiver(watcher=_Dying(Milestone.DETACHED))
        with pytest.raises(_Died):
            await all_steps(archiver)
        await archiver.aclose()
        await restorer_of(here).batch(await only_batch(here), keep_days=1)
        assert await everything(here) == before


async def test_a_table_that_somebody_detached_is_part_of_the_log_again(database: str, tmp_path: Path) -> None:
    """By a restore, or by the archiver: its runs that are nowhere else are neither dropped nor left out of reach."""
    async with archive(database, tmp_path) as here:
        log = await run_of(here.database, "old")
        goes_on = await run_of(here.database, "goes-on", state="started")
        await here.run()
        [table] = await here.partitions()
        await here.database.execute(f"ALTER TABLE run_events DETACH PARTITION {table}")
        await restorer_of(here).run("old", keep_days=1)
        assert await hot(here.database, "old") == log
        assert await hot(here.database, "goes-on") == goes_on


# ---------------------------------------------------------------------- the audit


def observer_of(here: Archive) -> tuple[Observer, ObserverMetrics]:
    metrics = ObserverMetrics(Exposition())
    audit = ColdAudit(here.database, lambda: here.store, metrics=here.metrics)
    return Observer(here.database, metrics, archives=True, archive_audit=audit), metrics


async def test_archived_runs_break_no_invariant(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        for n in range(5):
            await run_of(here.database, f"r{n}")
        observer, metrics = observer_of(here)
        archiver = here.archiver()
        await observer.observe()
        while (await archiver.step()).did is not Did.NOTHING:
            await observer.observe()
        await archiver.aclose()
        await observer.observe()
        assert {kind: count(gauge) for kind, gauge in metrics.violating_runs.items() if count(gauge)} == {}
        assert count(metrics.archive_oldest_pending) == 0


async def test_an_archived_run_that_is_no_longer_the_same_is_found_and_mended(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        for n in range(5):
            await run_of(here.database, f"r{n}")
        await here.run()
        whole = here.data_file().read_bytes()
        data = bytearray(whole)
        data[len(data) // 2] ^= 1
        here.data_file().write_bytes(data)
        observer, metrics = observer_of(here)
        for _ in range(3):
            await observer.observe()
        assert count(metrics.violating_runs["archive_equals_log"]) == 1
        assert count(metrics.violations["archive_equals_log"]) == 1
        assert count(here.metrics.failures[Failure.CORRUPT]) >= 1
        here.data_file().write_bytes(whole)
        await observer.observe()
        assert count(metrics.violating_runs["archive_equals_log"]) == 0


async def test_rows_that_differ_from_the_archive_are_found(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "r")
        archiver = here.archiver()
        await archiver.step()
        await archiver.step()
        await archiver.aclose()
        await here.database.execute("UPDATE run_events SET ts_us = ts_us + 1 WHERE seq = 7")
        observer, metrics = observer_of(here)
        await observer.observe()
        assert count(metrics.violating_runs["archive_equals_log"]) == 1


async def test_an_archive_that_cannot_be_read_is_a_failure_and_no_finding(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "r")
        await here.run()
        here.folder.rename(tmp_path / "elsewhere")
        observer, metrics = observer_of(here)
        await observer.observe()
        assert count(metrics.violating_runs["archive_equals_log"]) == 0
        assert count(here.metrics.failures[Failure.STORE]) == 1


async def test_an_archive_that_hangs_does_not_hold_up_the_observer(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging(ObjectStorage):
        async def read(self, path: str, *, start: int, length: int) -> bytes:
            await asyncio.Event().wait()
            return await super().read(path, start=start, length=length)

    monkeypatch.setattr(audit, "LOOK_S", 0.05)
    async with archive(database, tmp_path) as here:
        for n in range(3):
            await run_of(here.database, f"r{n}")
        await here.run()
        hanging = Hanging(LocalStore(here.folder), folder=here.folder)
        metrics = ObserverMetrics(Exposition())
        looking = audit.ColdAudit(here.database, lambda: hanging, metrics=here.metrics)
        observer = Observer(here.database, metrics, archives=True, archive_audit=looking)
        async with asyncio.timeout(30):
            await observer.observe()
            await observer.observe()  # and it is left alone for a while
        assert count(here.metrics.failures[Failure.STORE]) == 1
