"""Verifies a batch: its file, its manifest, each run's chain, and the rows of the log, where they still are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from runwire.archive.format import Chain, LoggedEvent, decoded_manifest, lines_of
from runwire.archive.ledger import Batch, Ledger, Place
from runwire.archive.reading import read_batch
from runwire.archive.store import ColdStore
from runwire.archive.watching import Watcher
from runwire.archive.writing import entry_of
from runwire.errors import ArchiveCorrupt


@dataclass(frozen=True, slots=True)
class Verified:
    """`hot_runs` also had the same rows in the log."""

    runs: int
    events: int
    size: int
    hot_runs: int


class Verifier:
    def __init__(self, ledger: Ledger, store: ColdStore, *, watcher: Watcher) -> None:
        self._ledger = ledger
        self._store = store
        self._watcher = watcher

    async def verify(self, batch: Batch, *, needs_log: bool = False) -> Verified:
        """Reads all of it. `needs_log`: the rows have to be in the log, too.

        Raises ArchiveCorrupt when anything differs, ArchiveGone, ArchiveUnavailable.
        """
        places = await self._ledger.places_of(batch)
        await self._check_manifest(batch, places)
        runs = events = hot_runs = 0
        async for some in read_batch(self._store, batch, places, watcher=self._watcher, doing="verify"):
            runs += len(some)
            events += sum(len(run.events) for run in some)
            hot_runs += await self._compare_with_log(batch, [run.place for run in some])
        if (runs, events) != (batch.runs, batch.events):
            raise ArchiveCorrupt(f"batch {batch.batch_id} does not have the recorded runs and events")
        if needs_log and hot_runs != runs:
            raise ArchiveCorrupt(f"batch {batch.batch_id} has runs whose rows are gone, and was not proven yet")
        return Verified(runs, events, batch.size, hot_runs)

    async def _check_manifest(self, batch: Batch, places: Sequence[Place]) -> None:
        manifest = decoded_manifest(await self._manifest(batch, at_most=_manifest_bytes(places)))
        says = (manifest.batch_id, manifest.run_day, manifest.bytes, manifest.sha256, manifest.runs, manifest.events)
        known = (
            batch.batch_id,
            batch.run_day,
            batch.size,
            (batch.sha256 or b"").hex(),
            batch.runs,
            batch.events,
        )
        if says != known or manifest.index != tuple(map(entry_of, places)):
            raise ArchiveCorrupt(f"the manifest of batch {batch.batch_id} does not match the database")

    async def _manifest(self, batch: Batch, *, at_most: int) -> bytes:
        data = bytearray()
        async for piece in self._store.read_all(batch.manifest_path):
            data += piece
            if len(data) > at_most:
                raise ArchiveCorrupt(f"the manifest of batch {batch.batch_id} is longer than the written one")
        return bytes(data)

    async def _compare_with_log(self, batch: Batch, places: Sequence[Place]) -> int:
        """How many of the runs have rows in the log. Raises ArchiveCorrupt when rows are others than archived."""
        chains: dict[str, Chain] = {}
        run_ids, last_seqs = [place.run_id for place in places], [place.events for place in places]
        async for parts in self._ledger.logs(batch.run_day, run_ids, last_seqs=last_seqs):
            await asyncio.to_thread(_add, chains, parts)
        for place in places:
            if place.run_id in chains and chains[place.run_id].link != place.chain:
                raise ArchiveCorrupt(f"the log of run {place.run_id!r} differs from the archived one")
        return len(chains)


def _manifest_bytes(places: Sequence[Place]) -> int:
    """A size above any manifest of these runs: the most that is read of the file."""
    return 8192 + sum(256 + len(place.run_id) + 16 * len(place.frames) for place in places)


def _add(chains: dict[str, Chain], parts: Sequence[tuple[str, Sequence[LoggedEvent]]]) -> None:
    for run_id, events in parts:
        chains.setdefault(run_id, Chain(run_id)).add(lines_of(events))
