"""Retention, step by step: finished runs into cold storage, proven there, and out of the log."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from runwire.archive.dropping import DayDropper, Left
from runwire.archive.ledger import SQL, Batch, BatchState, Ledger, PendingRun
from runwire.archive.metrics import ArchiveMetrics, Failure, Outcome
from runwire.archive.settings import DEFAULTS
from runwire.archive.store import ArchiveGone, ColdStore
from runwire.archive.sweeping import sweep
from runwire.archive.verifying import Verifier
from runwire.archive.watching import Milestone, Watcher
from runwire.archive.writing import BatchWriter
from runwire.db import Database
from runwire.db.partitions import EventPartitions, PartitionBusy
from runwire.errors import ArchiveCorrupt, ArchiveUnavailable, RunwireError
from runwire.telemetry.logs import LogEvent, get_logger

_LOCK: Final = 0x72756E7761726368  # "runwarch"

_log = get_logger()


class ArchiverBusy(RunwireError):
    """Another process is archiving, dropping or restoring. Nothing was done."""

    code = "archiver_busy"

    def __init__(self) -> None:
        super().__init__("another archiver is at work; one at a time writes, drops and restores")


class Did(StrEnum):
    """The result of a step."""

    WROTE = "wrote"
    VERIFIED = "verified"
    DROPPED = "dropped"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step, over. `runs` and `events` are those of the batch, or of the day that was dropped."""

    did: Did
    what: str = ""
    runs: int = 0
    events: int = 0


class Archiver:
    """`step` does the next piece of work and returns its result; NOTHING when all is done for now.

    When a process dies in the middle of a step, the next step finds its progress in PostgreSQL and finishes it.
    """

    def __init__(
        self,
        database: Database,
        store: ColdStore,
        *,
        metrics: ArchiveMetrics,
        writer: str,
        after_days: int = DEFAULTS.archive_after_days,
        batch_runs: int = DEFAULTS.archive_batch_runs,
        batch_events: int = DEFAULTS.archive_batch_events,
        watcher: Watcher | None = None,
    ) -> None:
        """`writer` signs the manifests: a program and its version."""
        self.ledger = Ledger(database)
        self._watcher = watcher or Watcher()
        self._store = store
        self._metrics = metrics
        self._after_days = after_days
        self._batch_runs = batch_runs
        self._batch_events = batch_events
        self._lock = ArchiverLock(database)
        self._writer = BatchWriter(self.ledger, store, watcher=self._watcher, writer=writer)
        self._verifier = Verifier(self.ledger, store, watcher=self._watcher)
        self._dropper = DayDropper(self.ledger, EventPartitions(database), after_days=after_days, watcher=self._watcher)
        self._refused: set[str] = set()
        self._marked = False

    async def step(self) -> StepResult:
        """Raises ArchiverBusy, ArchiveUnavailable, ArchiveCorrupt and DatabaseUnavailable: after each of them the next
        step can go on, and nothing unproven is ever dropped.
        """
        await self._lock.hold()
        if not self._marked:
            await self._store.mark()
            self._marked = True
        if unfinished := await self.ledger.unfinished():
            return await self._finish(unfinished[0])
        if pending := await self._pending():
            batch = await self.ledger.begin(pending[0].run_day)
            self._watcher.reached(Milestone.BEGUN, batch.batch_id)
            return await self._write(batch)
        await self.ledger.advance(after_days=self._after_days)
        return await self._drop()

    async def aclose(self) -> None:
        """Releases the right to archive to another process."""
        await self._lock.aclose()

    async def _pending(self) -> list[PendingRun]:
        return await self.ledger.pending(after_days=self._after_days, at_most=1, skip=sorted(self._refused))

    async def _finish(self, batch: Batch) -> StepResult:
        if batch.state is BatchState.WRITING:
            return await self._write(batch)
        try:
            verified = await self._verifier.verify(batch, needs_log=True)
        except (ArchiveCorrupt, ArchiveGone) as error:
            await self.ledger.write_again(batch)
            raise ArchiveCorrupt(str(error)) from error
        self._watcher.reached(Milestone.READ_BACK, batch.batch_id)
        if not await self.ledger.verified(batch):  # another archiver, which took the lock that this one lost
            raise ArchiverBusy
        self._watcher.reached(Milestone.VERIFIED, batch.batch_id)
        self._metrics.runs[Outcome.ARCHIVED].inc(verified.runs)
        self._metrics.bytes.inc(batch.size)
        _log.info(
            LogEvent.BATCH_ARCHIVED,
            batch_id=batch.batch_id,
            run_day=f"{batch.run_day}",
            runs=batch.runs,
            events=batch.events,
            bytes=batch.size,
        )
        await self.ledger.advance(after_days=self._after_days)
        return StepResult(Did.VERIFIED, batch.batch_id, verified.runs, verified.events)

    async def _write(self, batch: Batch) -> StepResult:
        runs = await self.ledger.pending(
            after_days=self._after_days, at_most=self._batch_runs, day=batch.run_day, skip=sorted(self._refused)
        )
        written = await self._writer.write(batch, _first_worth(runs, self._batch_events))
        if written is None:  # another archiver, which took the lock that this one lost
            raise ArchiverBusy
        if written.refused:
            self._refused |= set(written.refused)
            self._metrics.runs[Outcome.REFUSED].inc(len(written.refused))
            self._metrics.failures[Failure.BROKEN_LOG].inc()
            _log.error(LogEvent.ARCHIVE_FAILED, code="broken_log", runs=len(written.refused), first=written.refused[0])
        return StepResult(Did.WROTE, batch.batch_id, written.runs, written.events)

    async def _drop(self) -> StepResult:
        busy: PartitionBusy | None = None
        today = await self.ledger.today()
        for day in await self._dropper.due():
            going = [b for b in await self.ledger.batches(day=day) if b.state is BatchState.VERIFIED]
            try:
                left = await self._dropper.drop(day, today=today)
            except PartitionBusy as error:  # one day that is read for long does not keep the others
                busy = error
                continue
            if left is Left.KEPT:
                continue
            runs, events = sum(b.runs for b in going), sum(b.events for b in going)
            self._metrics.runs[Outcome.DROPPED].inc(runs)
            _log.info(LogEvent.DAY_DROPPED, run_day=f"{day}", runs=runs, events=events, how=left.value)
            return StepResult(Did.DROPPED, f"{day}", runs, events)
        if busy is not None:
            raise busy
        await sweep(self.ledger, self._store)
        self._refused.clear()  # they are tried again the next time round: a log may have been mended
        return StepResult(Did.NOTHING)


class ArchiverLock:
    """The exclusive right to write, drop and restore, held by a session of its own until it is closed."""

    def __init__(self, database: Database) -> None:
        self._session = database.session("archiver")

    async def hold(self) -> None:
        """Takes it, or makes sure that it is still held. Raises ArchiverBusy."""
        row = await self._session.fetchrow(SQL["lock"], _LOCK)
        if row is None or not row["held"]:
            raise ArchiverBusy

    async def aclose(self) -> None:
        await self._session.aclose()


def _first_worth(runs: list[PendingRun], events: int) -> list[PendingRun]:
    """The first of them that have so many events together, one at least."""
    chosen: list[PendingRun] = []
    for run in runs:
        events -= run.last_seq
        if chosen and events < 0:
            break
        chosen.append(run)
    return chosen


def reason_of(error: RunwireError) -> Failure:
    """The label under which a failed step is counted."""
    match error:
        case ArchiveCorrupt():
            return Failure.CORRUPT
        case ArchiveGone():
            return Failure.MISSING
        case ArchiveUnavailable():
            return Failure.STORE
        case PartitionBusy():
            return Failure.LOCKED
        case _:
            return Failure.DATABASE
