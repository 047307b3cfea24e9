"""Reads archived runs for clients: a page at a time, few at once, with a cache of recent frames."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from runwire.archive.format import FRAME_EVENTS, Chain, unpacked
from runwire.archive.ledger import Ledger, Place
from runwire.archive.metrics import ArchiveMetrics, Failure
from runwire.archive.retention import reason_of
from runwire.archive.store import ArchiveGone, ColdStore
from runwire.db import Database
from runwire.errors import ArchiveCorrupt, ArchiveUnavailable, CursorExpired
from runwire.model.event import EventType, StoredEvent
from runwire.telemetry.logs import LogEvent, get_logger

READS_AT_ONCE: Final = 8
WAIT_S: Final = 10.0
"""Seconds that a client waits for its page, in the queue and for the archive together."""
KEPT_EVENTS: Final = 50_000
"""Events kept in memory, in whole frames: some 15 MB."""

_log = get_logger()


class ColdLog:
    """The archived part of the log. `open_store` is called for the first read, and again after it failed."""

    def __init__(self, database: Database, open_store: Callable[[], ColdStore], *, metrics: ArchiveMetrics) -> None:
        self._ledger = Ledger(database)
        self._open_store = open_store
        self._metrics = metrics
        self._store: ColdStore | None = None
        self._permits = asyncio.Semaphore(READS_AT_ONCE)
        self._reading: dict[tuple[str, int], asyncio.Task[list[StoredEvent]]] = {}
        self._kept: OrderedDict[tuple[str, int], list[StoredEvent]] = OrderedDict()
        self._kept_events = 0

    async def events(self, run_id: str, *, after: int, upto: int, limit: int) -> tuple[StoredEvent, ...] | None:
        """The first `limit` events with `after` < seq <= `upto`, of which there is one at least; None when the run is
        not archived.

        Raises CursorExpired when the archive no longer has them, with the terminal event, which is kept apart, as the
        earliest; ArchiveUnavailable after ten seconds at most.
        """
        place = await self._ledger.place(run_id)
        if place is None:
            return None
        upto = min(upto, place.events, after + limit)
        found: list[StoredEvent] = []
        try:
            async with asyncio.timeout(WAIT_S):
                for number in range(after // FRAME_EVENTS, (upto - 1) // FRAME_EVENTS + 1):
                    found += await self._frame(place, number)
        except ArchiveGone:
            self._metrics.failures[Failure.MISSING].inc()
            return (_terminal_after(place, after),)
        except TimeoutError as error:
            self._metrics.failures[Failure.STORE].inc()
            raise ArchiveUnavailable("the archive did not answer in time") from error
        except ArchiveUnavailable as error:
            self._metrics.failures[reason_of(error)].inc()
            _log.warning(LogEvent.ARCHIVE_FAILED, code=reason_of(error).value, run_id=run_id)
            raise
        return tuple(event for event in found if after < event.seq <= upto)

    async def _frame(self, place: Place, number: int) -> list[StoredEvent]:
        """A frame, from memory or by one read that concurrent callers share."""
        key = place.batch_id, place.begins + sum(place.frames[:number])
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return kept
        read = self._reading.get(key)
        if read is None:
            read = asyncio.create_task(self._read(place, number, start=key[1]), name=f"archived {place.run_id}")
            self._reading[key] = read
            read.add_done_callback(lambda done: self._read_done(key, done))
        return await asyncio.shield(read)

    async def _read(self, place: Place, number: int, *, start: int) -> list[StoredEvent]:
        async with asyncio.timeout(WAIT_S), self._permits:
            if self._store is None:
                self._store = await asyncio.to_thread(self._open_store)
            data = await self._store.read(place.path, start=start, length=place.frames[number])
        before = number * FRAME_EVENTS
        frame = unpacked(data, run_id=place.run_id, first=before + 1)
        whole = len(frame.events) == min(FRAME_EVENTS, place.events - before)
        if len(place.frames) == 1:
            chain = Chain(place.run_id)
            chain.add(frame.lines)
            whole = whole and chain.link == place.chain
        if not whole:
            raise ArchiveCorrupt(f"the log of run {place.run_id!r} differs from the archived one")
        return [event.stored() for event in frame.events]

    def _read_done(self, key: tuple[str, int], read: asyncio.Task[list[StoredEvent]]) -> None:
        del self._reading[key]
        if read.cancelled() or read.exception() is not None:
            return
        events = read.result()
        self._kept[key] = events
        self._kept_events += len(events)
        while self._kept_events > KEPT_EVENTS:
            _, oldest = self._kept.popitem(last=False)
            self._kept_events -= len(oldest)

    async def aclose(self) -> None:
        """Cancels the running reads."""
        for read in tuple(self._reading.values()):
            read.cancel()
        await asyncio.gather(*self._reading.values(), return_exceptions=True)


def _terminal_after(place: Place, after: int) -> StoredEvent:
    """The terminal event, if it is the next one. Raises CursorExpired otherwise."""
    if after < place.events - 1:
        raise CursorExpired(place.run_id, earliest_seq=place.events)
    return StoredEvent(place.events, place.terminal_ts_us, EventType.RUN_FINISHED, None, None)
