"""The archive's share of the live audit: a few archived runs at a time, in turn, read and proven."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from runwire.archive.format import Chain, lines_of
from runwire.archive.ledger import Ledger, Place
from runwire.archive.metrics import ArchiveMetrics, Failure
from runwire.archive.reading import read_run
from runwire.archive.store import ArchiveGone, ColdStore
from runwire.clock import monotonic
from runwire.db import Database
from runwire.errors import ArchiveCorrupt, ArchiveUnavailable

RUNS_AT_ONCE: Final = 3
EVENTS_MAX: Final = 20_000
"""Most events of an audited run. `runwire archive verify` covers longer ones."""
LOOK_S: Final = 2.0
"""Seconds that one look may take. The observer waits for it, and must not seem dead because an archive is."""
REST_S: Final = 60.0
"""Pause in seconds after an archive did not answer."""


class ColdAudit:
    """Reads three runs a step: 50 000 a day. A file that cannot be read is a failure, not a finding."""

    def __init__(self, database: Database, open_store: Callable[[], ColdStore], *, metrics: ArchiveMetrics) -> None:
        self._ledger = Ledger(database)
        self._open_store = open_store
        self._metrics = metrics
        self._store: ColdStore | None = None
        self._after = ""
        self._look_at = 0.0

    async def step(self, again: frozenset[str]) -> tuple[set[str], set[str]]:
        """The runs of this look, including some of `again`, and those of them that differ from their archived events.
        Raises DatabaseUnavailable.
        """
        if monotonic() < self._look_at:
            return set(), set()
        places = await self._ledger.next_places(after=self._after, at_most=RUNS_AT_ONCE)
        self._after = places[-1].run_id if places else ""
        for run_id in sorted(again)[:RUNS_AT_ONCE]:
            if (place := await self._ledger.place(run_id)) is not None:
                places.append(place)
        looked: set[str] = set()
        broken: set[str] = set()
        for place in places:
            if place.events > EVENTS_MAX:
                continue
            try:
                async with asyncio.timeout(LOOK_S):
                    equal = await self._is_equal(place)
            except ArchiveGone:
                self._metrics.failures[Failure.MISSING].inc()
                continue
            except (ArchiveUnavailable, TimeoutError):
                self._metrics.failures[Failure.STORE].inc()
                self._look_at = monotonic() + REST_S
                break
            looked.add(place.run_id)
            if not equal:
                broken.add(place.run_id)
        return looked, broken

    async def _is_equal(self, place: Place) -> bool:
        """Whether cold storage has the archived events, and the log, if it has the run, the same ones."""
        if self._store is None:
            self._store = self._open_store()
        try:
            await read_run(self._store, place)
        except ArchiveCorrupt:
            self._metrics.failures[Failure.CORRUPT].inc()
            return False
        chain = Chain(place.run_id)
        rows = 0
        async for parts in self._ledger.logs(place.run_day, [place.run_id], last_seqs=[place.events]):
            for _, events in parts:
                chain.add(lines_of(events))
                rows += len(events)
        return rows == 0 or chain.link == place.chain
