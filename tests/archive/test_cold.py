"""Reads of archived runs: bounded, shared, and kept for a while."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Self

import pytest
from obstore.store import LocalStore

from archive.history import archive, run_of
from counting import count
from runwire.archive import cold
from runwire.archive.cold import ColdLog
from runwire.archive.format import FRAME_EVENTS, packed, unpacked
from runwire.archive.ledger import Ledger
from runwire.archive.metrics import Failure
from runwire.archive.object_store import ObjectStorage
from runwire.errors import ArchiveCorrupt, ArchiveUnavailable


class Counting(ObjectStorage):
    """Counts reads, and how many there are at once; `held` keeps them from ending."""

    reads = 0
    at_once = 0
    most_at_once = 0
    held: asyncio.Event | None = None

    @classmethod
    def of(cls, folder: Path) -> Self:
        return cls(LocalStore(folder), folder=folder)

    async def read(self, path: str, *, start: int, length: int) -> bytes:
        self.reads += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.held is not None:
                await self.held.wait()
            else:
                await asyncio.sleep(0)
            return await super().read(path, start=start, length=length)
        finally:
            self.at_once -= 1


async def test_a_herd_at_one_run_costs_one_read_and_the_next_none(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        log = await run_of(here.database, "r")
        await here.run()
        store = Counting.of(here.folder)
        reading = ColdLog(here.database, lambda: store, metrics=here.metrics)
        found = await asyncio.gather(*(reading.events("r", after=0, upto=13, limit=100) for _ in range(50)))
        assert found == [tuple(log)] * 50
        assert store.reads == 1
        assert await reading.events("r", after=5, upto=13, limit=3) == tuple(log[5:8])
        assert store.reads == 1


async def test_a_page_of_a_long_run_reads_only_the_frames_it_is_in(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        log = await run_of(here.database, "long", events=5 * FRAME_EVENTS)
        await here.run()
        store = Counting.of(here.folder)
        reading = ColdLog(here.database, lambda: store, metrics=here.metrics)
        page = await reading.events("long", after=2500, upto=len(log), limit=1000)
        assert page == tuple(log[2500:3500])
        assert store.reads == 2


async def test_reads_at_once_and_what_is_kept_are_bounded(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold, "KEPT_EVENTS", 100)
    async with archive(database, tmp_path) as here:
        for n in range(30):
            await run_of(here.database, f"r{n}", events=20)
        await here.run()
        store = Counting.of(here.folder)
        reading = ColdLog(here.database, lambda: store, metrics=here.metrics)
        await asyncio.gather(*(reading.events(f"r{n}", after=0, upto=20, limit=100) for n in range(30)))
        assert store.reads == 30
        assert 1 < store.most_at_once <= cold.READS_AT_ONCE
        for n in range(30):
            await reading.events(f"r{n}", after=0, upto=20, limit=100)
        assert store.reads >= 30 + 25, "100 events are five runs"


async def test_an_archive_that_hangs_costs_a_client_a_bounded_wait(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold, "WAIT_S", 0.1)
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "r")
        await here.run()
        store = Counting.of(here.folder)
        store.held = asyncio.Event()
        reading = ColdLog(here.database, lambda: store, metrics=here.metrics)
        with pytest.raises(ArchiveUnavailable):
            await reading.events("r", after=0, upto=13, limit=100)
        assert count(here.metrics.failures[Failure.STORE]) == 1
        pending = asyncio.create_task(reading.events("r", after=0, upto=13, limit=100))
        await asyncio.sleep(0)
        await reading.aclose()
        with pytest.raises((ArchiveUnavailable, asyncio.CancelledError)):
            await pending


async def test_a_run_that_was_never_archived_is_nobodys_here(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "young", days_ago=1)
        reading = ColdLog(here.database, lambda: here.store, metrics=here.metrics)
        assert await reading.events("young", after=0, upto=13, limit=100) is None
        assert await reading.events("nobody", after=0, upto=1, limit=100) is None


async def test_a_frame_with_fewer_events_than_it_should_have_is_not_a_short_page(database: str, tmp_path: Path) -> None:
    """A reader that is given no event after its cursor, and told that there are more, would ask for ever."""
    async with archive(database, tmp_path) as here:
        log = await run_of(here.database, "long", events=2 * FRAME_EVENTS)
        await here.run()
        place = await Ledger(here.database).place("long")
        assert place is not None
        first = here.data_file().read_bytes()[: place.frames[0]]
        whole = unpacked(first, run_id="long", first=1)
        short = packed(whole.header, whole.lines[:500])
        await here.database.execute(
            "UPDATE archived_runs SET frames = ARRAY[$1::int, frames[2]] WHERE run_id = 'long'", len(short)
        )
        here.data_file().write_bytes(short + here.data_file().read_bytes()[place.frames[0] :])
        reading = ColdLog(here.database, lambda: here.store, metrics=here.metrics)
        for after in (0, 500):
            with pytest.raises(ArchiveCorrupt):
                await reading.events("long", after=after, upto=len(log), limit=100)
