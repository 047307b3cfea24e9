"""Writes a batch: the runs' rows, packed into one file beside its manifest, then recorded."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from runwire.archive.format import (
    FORMAT,
    FRAME_EVENTS,
    Chain,
    LoggedEvent,
    Manifest,
    RunEntry,
    RunHeader,
    encoded_manifest,
    lines_of,
    packed,
)
from runwire.archive.ledger import Batch, BatchState, Ledger, PendingRun, Place
from runwire.archive.store import ColdStore
from runwire.archive.watching import Milestone, Watcher
from runwire.clock import monotonic
from runwire.model.event import EventType


@dataclass(frozen=True, slots=True)
class WrittenBatch:
    """`refused` runs have gaps in their logs. They stay in PostgreSQL, and the audit reports them."""

    runs: int
    events: int
    size: int
    refused: tuple[str, ...]


class BatchWriter:
    def __init__(self, ledger: Ledger, store: ColdStore, *, watcher: Watcher, writer: str) -> None:
        """`writer` is the program named in the manifests."""
        self._ledger = ledger
        self._store = store
        self._watcher = watcher
        self._writer = writer

    async def write(self, begun: Batch, runs: Sequence[PendingRun]) -> WrittenBatch | None:
        """Leaves the batch `written`, or gives it up when none of the runs can be archived. May be called again for a
        batch that was left behind: it deletes the files of the attempt before.

        None when another archiver took the batch over. The files of that one stay as they are.
        """
        batch = await self._ledger.attempt(begun)
        if batch is None:
            return None
        with tempfile.TemporaryDirectory(prefix="runwire-archive-") as folder:
            data = Path(folder) / "batch"
            with data.open("wb") as file:
                packing = _Packing(file, batch, runs)
                await self._pack(packing, batch, runs)
            if not packing.places:
                for path in (begun.path, begun.manifest_path):  # while a record leads here
                    await self._store.delete(path)
                await self._ledger.give_up(batch)
                return WrittenBatch(0, 0, 0, tuple(packing.refused))
            written = await self._store_and_record(batch, data, packing)
        left_over = begun if written is not None else batch
        for path in (left_over.path, left_over.manifest_path):
            await self._store.delete(path)
        return written

    async def _pack(self, packing: _Packing, batch: Batch, runs: Sequence[PendingRun]) -> None:
        total = sum(run.last_seq for run in runs)
        done = 0
        run_ids, last_seqs = [run.run_id for run in runs], [run.last_seq for run in runs]
        async for parts in self._ledger.logs(batch.run_day, run_ids, last_seqs=last_seqs):
            began = monotonic()
            await asyncio.to_thread(packing.add, parts)
            done += sum(len(events) for _, events in parts)
            self._watcher.advanced("write", done=done, total=total)
            await self._watcher.breathe(monotonic() - began)
        await asyncio.to_thread(packing.finish)

    async def _store_and_record(self, batch: Batch, data: Path, packing: _Packing) -> WrittenBatch | None:
        size, sha256 = await asyncio.to_thread(_measured, data)
        places = packing.places
        await self._store.put(batch.path, data)
        self._watcher.reached(Milestone.DATA_STORED, batch.batch_id)
        manifest = encoded_manifest(
            Manifest(
                FORMAT,
                self._writer,
                batch.batch_id,
                batch.run_day,
                batch.begun_at,
                batch.path.rpartition("/")[2],
                size,
                sha256.hex(),
                len(places),
                sum(place.events for place in places),
                tuple(entry_of(place) for place in places),
            )
        )
        await self._store.put(batch.manifest_path, manifest)
        self._watcher.reached(Milestone.MANIFEST_STORED, batch.batch_id)
        if not await self._ledger.record(batch, places, size=size, sha256=sha256):
            return None
        self._watcher.reached(Milestone.WRITTEN, batch.batch_id)
        return WrittenBatch(len(places), sum(place.events for place in places), size, tuple(packing.refused))


def entry_of(place: Place) -> RunEntry:
    """The run's place in the form of the manifest."""
    return RunEntry(place.run_id, place.begins, place.frames, place.events, place.chain.hex())


def _measured(path: Path) -> tuple[int, bytes]:
    """Bytes of a file, and their SHA-256."""
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").digest()


class _Packing:
    """A batch's file while it grows. Runs come one after the other, a long one in several parts."""

    def __init__(self, file: BinaryIO, batch: Batch, runs: Sequence[PendingRun]) -> None:
        self.places: list[Place] = []
        self.refused: list[str] = []
        self._file = file
        self._batch = batch
        self._runs = {run.run_id: run for run in runs}
        self._current: _RunPacking | None = None

    def add(self, parts: Sequence[tuple[str, Sequence[LoggedEvent]]]) -> None:
        for run_id, events in parts:
            if self._current is None or self._current.run.run_id != run_id:
                self.finish()
                self._current = _RunPacking(self._file, self._runs[run_id])
            self._current.add(events)

    def finish(self) -> None:
        """Closes the run that is open; one whose log is not whole is taken out again."""
        current, self._current = self._current, None
        if current is None:
            return
        if (place := current.place(self._batch)) is not None:
            self.places.append(place)
        else:
            self._file.seek(current.begins)
            self._file.truncate()
            self.refused.append(current.run.run_id)


class _RunPacking:
    def __init__(self, file: BinaryIO, run: PendingRun) -> None:
        self.run = run
        self.begins: Final = file.tell()
        self._file = file
        self._chain = Chain(run.run_id)
        self._frames: list[int] = []
        self._rest: list[LoggedEvent] = []
        self._packed = 0
        self._last: LoggedEvent | None = None
        self._whole = True

    def add(self, events: Sequence[LoggedEvent]) -> None:
        expected = self._packed + len(self._rest) + 1
        self._whole = self._whole and [e.seq for e in events] == list(range(expected, expected + len(events)))
        self._last = events[-1]
        self._rest += events
        while len(self._rest) >= FRAME_EVENTS:
            self._frame(self._rest[:FRAME_EVENTS])
            del self._rest[:FRAME_EVENTS]

    def place(self, batch: Batch) -> Place | None:
        if self._rest:
            self._frame(self._rest)
            self._rest = []
        last, run = self._last, self.run
        if last is None or not self._whole or last.seq != run.last_seq or last.type != EventType.RUN_FINISHED:
            return None
        return Place(
            run.run_id,
            batch.batch_id,
            batch.path,
            batch.run_day,
            self.begins,
            tuple(self._frames),
            self._packed,
            self._chain.link,
            last.ts_us,
            last.source,
            BatchState.WRITTEN,
        )

    def _frame(self, events: Sequence[LoggedEvent]) -> None:
        run = self.run
        header = RunHeader(
            FORMAT, run.run_id, run.run_day, run.tenant, run.agent, run.state, run.last_seq, self._packed + 1
        )
        if self._packed == 0 and (run.session is not None or run.labels != "{}"):
            header = msgspec.structs.replace(header, session=run.session, labels=msgspec.json.decode(run.labels))
        lines = lines_of(events)
        self._chain.add(lines)
        frame = packed(header, lines)
        self._file.write(frame)
        self._frames.append(len(frame))
        self._packed += len(events)
