"""Restores runs from cold storage into the log."""

from __future__ import annotations

from dataclasses import dataclass

from runwire.archive.ledger import READ_EVENTS, Batch, BatchState, Ledger
from runwire.archive.reading import RunRead, read_batch, read_run
from runwire.archive.store import ColdStore
from runwire.archive.watching import Milestone, Watcher
from runwire.db.partitions import EventPartitions
from runwire.errors import RunNotFound


@dataclass(frozen=True, slots=True)
class Restored:
    runs: int
    events: int


class Restorer:
    """Restored rows are kept for some days and then dropped again; the copy in cold storage stays."""

    def __init__(self, ledger: Ledger, partitions: EventPartitions, store: ColdStore, *, watcher: Watcher) -> None:
        self._ledger = ledger
        self._partitions = partitions
        self._store = store
        self._watcher = watcher

    async def batch(self, batch: Batch, *, keep_days: int) -> Restored:
        """All of a batch. Repeated after a crash, it puts back what is missing. Raises ArchiveCorrupt, ArchiveGone,
        ArchiveUnavailable and PartitionBusy.
        """
        places = await self._ledger.places_of(batch)
        await self._make_room(batch, keep_days=keep_days)
        events = 0
        reading = read_batch(self._store, batch, places, watcher=self._watcher, doing="restore")
        async for runs in reading:
            events += await self._put_back(batch, runs)
        await self._ledger.restored(batch, keep_days=keep_days, whole=True)
        self._watcher.reached(Milestone.RESTORED, batch.batch_id)
        return Restored(len(places), events)

    async def run(self, run_id: str, *, keep_days: int) -> Restored:
        """One run. Raises RunNotFound when it is not in cold storage, else as above."""
        place = await self._ledger.place(run_id)
        if place is None:
            raise RunNotFound(run_id)
        [batch] = await self._ledger.batches(batch_id=place.batch_id)
        events = await read_run(self._store, place)
        await self._make_room(batch, keep_days=keep_days)
        await self._put_back(batch, [RunRead(place, events)])
        self._watcher.reached(Milestone.RESTORED, run_id)
        return Restored(1, len(events))

    async def _make_room(self, batch: Batch, *, keep_days: int) -> None:
        """Attaches a table that was detached, or about to be, to the log again, with its rows."""
        day = batch.run_day
        # Before any row is there: from here on the archiver leaves the day alone.
        await self._ledger.restored(batch, keep_days=keep_days, whole=False)
        await self._partitions.make(day)
        self._watcher.reached(Milestone.PARTITION_MADE, f"{day}")

    async def _put_back(self, batch: Batch, runs: list[RunRead]) -> int:
        group: list[RunRead] = []
        events = total = 0
        for run in runs:
            if group and events + len(run.events) > READ_EVENTS:
                await self._put_group(batch, group)
                group, events = [], 0
            group.append(run)
            events += len(run.events)
            total += len(run.events)
        if group:
            await self._put_group(batch, group)
        return total

    async def _put_group(self, batch: Batch, group: list[RunRead]) -> None:
        await self._ledger.put_back(batch.run_day, [(run.place.run_id, run.events) for run in group])
        self._watcher.reached(Milestone.PUT_BACK, batch.batch_id)


def is_restorable(batch: Batch) -> bool:
    """Whether a batch has been proven, so that it may be restored."""
    return batch.state in (BatchState.VERIFIED, BatchState.DROPPED)
