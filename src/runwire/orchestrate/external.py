"""Runs whose orchestrator lives elsewhere, in any language: it appends over HTTP, fenced like any worker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from runwire.append import Appended, Change, Companion, EventLog
from runwire.db import Database, load_sql
from runwire.duties import Duty
from runwire.errors import AppendError, DatabaseFailed, IllegalBatch, RunClosed, RunNotFound
from runwire.model.content import check_not_reserved
from runwire.model.event import RUN_FINISHED, RUN_STARTED, EventType, NewEvent, Source, debug_trace
from runwire.model.run import RunState
from runwire.orchestrate.cancelling import Cancelling
from runwire.telemetry.logs import LogEvent, get_logger
from runwire.telemetry.metrics import Metrics
from runwire.telemetry.spans import NO_SPANS, Spans
from runwire.telemetry.traceparent import sampled_trace_id

_SQL = load_sql("runwire.orchestrate", "orchestrate.sql")
_log = get_logger()


TRACES_KEPT: Final = 4096


@dataclass(frozen=True, slots=True)
class ReceivedSignal:
    """A signal for an external run. `n` counts the run's signals from 1; `data` is JSON, None for a signal without."""

    n: int
    name: str
    data: bytes | None
    id: str | None


class ExternalRuns:
    """Appends for external orchestrators."""

    def __init__(self, database: Database, log: EventLog, *, metrics: Metrics, spans: Spans = NO_SPANS) -> None:
        self._database = database
        self._log = log
        self._metrics = metrics
        self._spans = spans
        self._traces: dict[str, str | None] = {}

    async def append(
        self,
        run_id: str,
        events: Sequence[NewEvent],
        *,
        fence: int,
        if_seq: int | None = None,
        outcome: RunState | None = None,
        requested_by: str | None = None,
        companion: Companion | None = None,
    ) -> Appended:
        """Stores the batch, all or nothing, and renews the lease; an empty one is a heartbeat.

        The first event of a run is RunStarted; `outcome` goes with RunFinished. `requested_by` is the request's
        traceparent. Only what goes with a `companion` may tell of content. Raises what `EventLog.append` raises,
        NotExternal for a run that a worker of ours walks among it, and InvalidRequest (`reserved_fn`).
        """
        if companion is None:
            for event in events:
                check_not_reserved(event.fn)
        starts = bool(events) and events[0].type is EventType.RUN_STARTED
        change = Change(outcome) if outcome else Change(RunState.STARTED) if starts else None
        if starts and outcome:
            raise IllegalBatch(run_id, "RunStarted and RunFinished must be in two appends")
        traceparent = await self._trace_of(run_id) if events and self._spans.recording else None
        with self._spans.create_events(traceparent, run_id=run_id, count=len(events), requested_by=requested_by):
            appended = await self._log.append(
                run_id, events, fence=fence, source=Source.API, if_seq=if_seq, change=change, companion=companion
            )
        if starts:
            self._metrics.runs_started["external"].inc()
        if outcome:
            self._metrics.runs_finished["external", outcome.value].inc()
            await self._observe_duration(run_id, outcome)
        return appended

    async def signals(self, run_id: str, *, taken: int = 0) -> list[ReceivedSignal]:
        """The signals that the orchestrator has not taken yet, oldest first, at least one and at most 256 KiB of data.

        Those up to number `taken` are acknowledged first, and never returned again.
        """
        rows = await self._database.fetch(_SQL["external_signals"], run_id, taken)
        return [ReceivedSignal(row["n"], row["signal"], row["data"], row["signal_id"]) for row in rows]

    async def _trace_of(self, run_id: str) -> str | None:
        """The run's traceparent, looked up once; None when the look-up fails, because no append waits for its span."""
        if run_id in self._traces:
            return self._traces[run_id]
        try:
            row = await self._database.fetchrow(_SQL["trace"], run_id)
        except DatabaseFailed:
            return None
        if row is None:
            return None
        if len(self._traces) >= TRACES_KEPT:
            del self._traces[next(iter(self._traces))]
        self._traces[run_id] = row["traceparent"]
        return self._traces[run_id]

    async def _observe_duration(self, run_id: str, outcome: RunState) -> None:
        """Records the run's duration. The end is already durable, so a failing look-up is not a failure of the run."""
        self._traces.pop(run_id, None)
        with contextlib.suppress(DatabaseFailed):
            row = await self._database.fetchrow(_SQL["duration"], run_id)
            if row is not None:
                self._metrics.run_duration[outcome.value].observe(row["took_s"], sampled_trace_id(row["traceparent"]))


@dataclass(frozen=True, slots=True)
class _Expired:
    run_id: str
    agent: str
    fence: int
    last_seq: int
    state: str
    age_s: float


class LeaseReaper:
    """Fails runs whose external orchestrator let its lease end, and ends cancelled runs that no worker walks."""

    def __init__(
        self,
        database: Database,
        log: EventLog,
        *,
        metrics: Metrics,
        owner: str,
        poll_s: float = 1.0,
        cancelling: Cancelling | None = None,
    ) -> None:
        """With `cancelling`, cancelled runs that nobody walks are ended here, too."""
        self._database = database
        self._log = log
        self._metrics = metrics
        self._owner = owner
        self._poll_s = poll_s
        self._cancelling = cancelling

    async def run(self) -> None:
        attempts = self._database.attempts(Duty.REAP)
        while True:
            reaped = 0
            with attempts:
                reaped = await self.reap()
                if self._cancelling is not None:
                    reaped += await self._cancelling.sweep()
            if reaped == 0:
                await asyncio.sleep(max(self._poll_s, attempts.pause_s))

    async def reap(self) -> int:
        """One step: how many runs were failed with `error:lease_lost`. Each was fenced out before."""
        rows = await self._database.fetch(_SQL["take_expired_external"], self._owner, 100)
        await asyncio.gather(*(self._fail(_Expired(**row)) for row in rows))
        return len(rows)

    async def _fail(self, run: _Expired) -> None:
        """Fails one run. If this process dies meanwhile, another takes over when the lease ends."""
        try:
            if run.state == "pending":
                await self._append(run, [RUN_STARTED], Change(RunState.STARTED))
            failed = Change(RunState.FAILED, error_code="lease_lost")
            await self._append(run, [debug_trace("error:lease_lost"), RUN_FINISHED], failed)
        except (RunClosed, RunNotFound):
            return
        except AppendError as error:
            _log.warning(LogEvent.APPEND_FAILED, run_id=run.run_id, code=error.code)
            return
        self._metrics.runs_finished["external", "failed"].inc()
        self._metrics.run_duration["failed"].observe(run.age_s)
        _log.warning(LogEvent.LEASE_LOST, run_id=run.run_id, agent=run.agent)

    async def _append(self, run: _Expired, events: list[NewEvent], change: Change) -> None:
        await self._log.append(run.run_id, events, fence=run.fence, source=Source.WORKER, change=change)
