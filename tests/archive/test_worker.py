"""The role archiver: its loop, its rests, and what it does where it cannot work."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from archive.history import Archive, archive, hot, run_of
from counting import count
from runwire.archive import open_store
from runwire.archive.metrics import Failure
from runwire.archive.retention import Archiver
from runwire.archive.worker import ArchiveWorker, Considerate
from runwire.assembly import Assembly
from runwire.errors import ArchiveUnavailable, ConfigurationError
from runwire.settings import Role, Settings, load_settings
from waiting import eventually


def worker_of(here: Archive, *, period_s: float = 1000.0) -> ArchiveWorker:
    def make() -> Archiver:
        return Archiver(
            here.database, open_store(str(here.folder)), metrics=here.metrics, writer="tests", watcher=Considerate()
        )

    return ArchiveWorker(make, here.metrics, period_s=period_s)


async def test_a_worker_does_all_there_is_and_then_lets_others_work(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "one", days_ago=40)
        await run_of(here.database, "other", days_ago=50)
        assert await worker_of(here).work() == 1000.0
        assert await here.partitions() == []
        await run_of(here.database, "third", days_ago=45)
        # As if days had gone by: nobody finishes in the past.
        await here.database.execute("UPDATE archive_progress SET archived_all = '-infinity'")
        await here.run()  # by hand, while the worker rests
        assert await here.partitions() == []


async def test_a_worker_that_cannot_write_tries_again_soon_and_counts_it(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        log = await run_of(here.database, "r")
        here.folder.write_text("not a folder")
        worker = worker_of(here)
        rests = [await worker.work() for _ in range(3)]
        assert all(0 < rest <= 8 for rest in rests)
        assert count(here.metrics.failures[Failure.STORE]) == 3
        assert await hot(here.database, "r") == log
        here.folder.unlink()
        assert await worker.work() == 1000.0
        assert await hot(here.database, "r") == []


async def test_a_worker_waits_while_another_archives(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "r")
        other = here.archiver()
        await other.step()
        assert await worker_of(here).work() == 60.0
        assert sum(count(counter) for counter in here.metrics.failures.values()) == 0
        await other.aclose()
        assert await worker_of(here).work() == 1000.0


async def test_a_service_archives_by_itself(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "r")
        settings = Settings(
            database_url=database,
            archive_url=str(here.folder),
            roles=(Role.ARCHIVER,),
            bus="postgres",
            admin_port=0,
        )
        async with Assembly(settings):

            async def is_gone() -> bool:
                return await here.partitions() == []

            await eventually(is_gone, within_s=30)
        assert here.data_file().stat().st_size > 0


@pytest.mark.parametrize("missing", ["obstore", "backports"])
async def test_without_the_extra_only_who_asked_for_an_archiver_hears_of_it(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ArchiveUnavailable, match=r"pip install .runwire\[archive\]"):
        open_store(str(tmp_path))
    given: dict[str, Any] = {
        "database_url": database,
        "archive_url": str(tmp_path / "a"),
        "port": 0,
        "admin_port": 0,
        "bus": "memory",
    }
    async with Assembly(Settings(**given)) as service:
        assert service.api_port
    with pytest.raises(ConfigurationError, match="role archiver"):
        async with Assembly(Settings(**(given | {"roles": "archiver", "bus": "postgres"}))):
            pass


async def test_a_url_that_is_none_is_a_wrong_setting(database: str) -> None:
    settings = Settings(database_url=database, archive_url="bogus://x/y", port=0, admin_port=0, bus="memory")
    with pytest.raises(ConfigurationError, match="RUNWIRE_ARCHIVE_URL"):
        async with Assembly(settings):
            pass


def test_a_folder_of_one_host_is_no_archive_for_a_database_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "RUNWIRE_DATABASE_URL", "RUNWIRE_ARCHIVE_URL"):
        monkeypatch.delenv(name, raising=False)
    alone = Settings(data_dir=Path("/somewhere"))
    assert (alone.archive, alone.archives) == ("/somewhere/archive", True)
    assert Settings(archive_after_days=0).archives is False
    shared = Settings(database_url="postgresql://elsewhere")
    assert (shared.archive, shared.archives) == (None, False)
    with pytest.raises(ConfigurationError, match="archive_url"):
        load_settings(database_url="postgresql://elsewhere", roles=("archiver",))
    assert Settings(database_url="postgresql://elsewhere", archive_url="s3://b/p", roles=(Role.ARCHIVER,)).archives
