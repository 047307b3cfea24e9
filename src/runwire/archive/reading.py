"""Reads batches and runs back from cold storage, each proven by its chain on the way."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from runwire.archive.format import FRAME_EVENTS, Chain, Frame, LoggedEvent, unpacked
from runwire.archive.ledger import Batch, Place
from runwire.archive.store import ColdStore
from runwire.archive.watching import Watcher
from runwire.clock import monotonic
from runwire.errors import ArchiveCorrupt
from runwire.model.event import EventType

RUNS_AT_ONCE = 500


async def read_run(store: ColdStore, place: Place) -> list[LoggedEvent]:
    """All events of a run. Raises ArchiveCorrupt unless they are those that were archived, ArchiveGone,
    ArchiveUnavailable.
    """
    data = await store.read(place.path, start=place.begins, length=sum(place.frames))
    return await asyncio.to_thread(_whole_run, place, data)


@dataclass(frozen=True, slots=True)
class RunRead:
    place: Place
    events: list[LoggedEvent]


async def read_batch(
    store: ColdStore, batch: Batch, places: Sequence[Place], *, watcher: Watcher, doing: str
) -> AsyncIterator[list[RunRead]]:
    """All runs of a batch in the order of its file, some at a time, each proven by its chain; the file's checksum and
    size at the end. Raises ArchiveCorrupt, ArchiveGone, ArchiveUnavailable.
    """
    carving = _Carving(batch, places)
    done = 0
    async for piece in store.read_all(batch.path):
        carving.take(piece)
        while found := carving.complete():
            began = monotonic()
            runs = await asyncio.to_thread(lambda: [RunRead(p, _whole_run(p, data)) for p, data in found])
            done += sum(len(run.events) for run in runs)
            watcher.advanced(doing, done=done, total=batch.events)
            yield runs
            await watcher.breathe(monotonic() - began)
    carving.check_end()


class _Carving:
    """Cuts a file that comes in pieces into its runs."""

    def __init__(self, batch: Batch, places: Sequence[Place]) -> None:
        self._batch = batch
        self._places = list(reversed(places))
        self._buffer = bytearray()
        self._at = 0
        self._size = 0
        self._sha256 = hashlib.sha256()

    def take(self, piece: bytes) -> None:
        self._sha256.update(piece)
        self._size += len(piece)
        if self._size > self._batch.size:  # however much more there is: none of it is kept
            raise ArchiveCorrupt(f"the file of batch {self._batch.batch_id} is longer than the written one")
        self._buffer += piece

    def complete(self) -> list[tuple[Place, bytes]]:
        """The next runs that are here whole, at most `RUNS_AT_ONCE`."""
        found: list[tuple[Place, bytes]] = []
        cut = 0
        while self._places and len(found) < RUNS_AT_ONCE:
            place = self._places[-1]
            length = sum(place.frames)
            if place.begins != self._at + cut:
                raise ArchiveCorrupt(f"batch {self._batch.batch_id} is not at the place in its index")
            if cut + length > len(self._buffer):
                break
            found.append((place, bytes(self._buffer[cut : cut + length])))
            cut += length
            self._places.pop()
        del self._buffer[:cut]
        self._at += cut
        return found

    def check_end(self) -> None:
        batch = self._batch
        if self._places or self._buffer or self._size != batch.size or self._sha256.digest() != batch.sha256:
            raise ArchiveCorrupt(f"the file of batch {batch.batch_id} differs from the written one")


def _whole_run(place: Place, data: bytes) -> list[LoggedEvent]:
    chain = Chain(place.run_id)
    events: list[LoggedEvent] = []
    for frame in _frames(place, data):
        chain.add(frame.lines)
        events += frame.events
    last = events[-1]
    ended = last.type == EventType.RUN_FINISHED and (last.ts_us, last.source) == (
        place.terminal_ts_us,
        place.terminal_source,
    )
    if chain.link != place.chain or len(events) != place.events or not ended:
        raise ArchiveCorrupt(f"the log of run {place.run_id!r} differs from the archived one")
    return events


def _frames(place: Place, data: bytes) -> Iterator[Frame]:
    at = 0
    for number, length in enumerate(place.frames):
        yield unpacked(data[at : at + length], run_id=place.run_id, first=number * FRAME_EVENTS + 1)
        at += length
