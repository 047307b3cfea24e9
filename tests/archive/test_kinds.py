"""The registry of archive stores: one line makes a module a store, for all who archive and all who read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from archive.history import all_steps, read, run_of
from archive.toy_store import KEPT
from runwire.archive import ArchiveMetrics, open_store
from runwire.archive.cold import ColdLog
from runwire.archive.kinds import STORES
from runwire.archive.retention import Archiver
from runwire.assembly import Assembly
from runwire.db import Database
from runwire.errors import ConfigurationError
from runwire.settings import Role, Settings
from runwire.stream import LogReader
from runwire.telemetry.exposition import Exposition
from waiting import eventually


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(STORES, "toy", "archive.toy_store")
    yield
    KEPT.clear()


async def test_a_store_of_another_module_archives_and_gives_back(database: str) -> None:
    async with Database(database) as connected:
        log = await run_of(connected, "r")
        metrics = ArchiveMetrics(Exposition())
        archiver = Archiver(connected, open_store("toy://a"), metrics=metrics, writer="tests")
        await all_steps(archiver)
        await archiver.aclose()
        assert len(KEPT["a"]) == 3  # the marker, the data, its manifest
        cold = ColdLog(connected, lambda: open_store("toy://a"), metrics=metrics)
        assert await read(LogReader(connected, cold=cold), "r") == log


async def test_a_service_archives_to_it(database: str) -> None:
    async with Database(database) as connected:
        await run_of(connected, "r")
    settings = Settings(
        database_url=database, archive_url="toy://b", roles=(Role.ARCHIVER,), bus="postgres", admin_port=0, drain_s=1.0
    )
    async with Assembly(settings):
        await eventually(lambda: len(KEPT["b"]) == 3, within_s=30)


async def test_a_url_that_it_refuses_ends_the_start(database: str) -> None:
    settings = Settings(
        database_url=database, archive_url="toy://", roles=(Role.ARCHIVER,), bus="postgres", admin_port=0, drain_s=1.0
    )
    with pytest.raises(ConfigurationError, match="names no host"):
        async with Assembly(settings):
            pass
