"""Runs whose orchestrator lives elsewhere, in any language: it appends over HTTP, fenced like any worker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from runwire.append import Appended, Change, EventLog
from runwire.db import Database, load_sql
from runwire.errors import AppendError, DatabaseUnavailable, IllegalBatch, RunClosed, RunNotFound
from runwire.model.event import RUN_FINISHED, RUN_STARTED, EventType, NewEvent, Source, debug_trace
from runwire.model.run import RunState
from runwire.telemetry.logs import LogEvent, get_logger
from runwire.telemetry.metrics import Metrics

_SQL = load_sql("runwire.orchestrate", "orchestrate.sql")
_log = get_logger()


class ExternalRuns:
    """Appends for external orchestrators."""

    def __init__(self, log: EventLog, *, metrics: Metrics) -> None:
        self._log = log
        self._metrics = metrics

    async def append(
        self,
        run_id: str,
        events: Sequence[NewEvent],
        *,
        fence: int,
        if_seq: int | None = None,
        outcome: RunState | None = None,
    ) -> Appended:
        """Stores the batch, all or nothing, and renews the lease; an empty one is a heartbeat.

        The first event of a run is RunStarted; `outcome` goes with RunFinished. Raises what `EventLog.append` raises,
        NotExternal for a run that a worker of ours walks among it.
        """
        starts = bool(events) and events[0].type is EventType.RUN_STARTED
        change = Change(outcome) if outcome else Change(RunState.STARTED) if starts else None
        if starts and outcome:
            raise IllegalBatch(run_id, "RunStarted and RunFinished go in two appends")
        appended = await self._log.append(run_id, events, fence=fence, source=Source.API, if_seq=if_seq, change=change)
        if starts:
            self._metrics.runs_started["external"].inc()
        if outcome:
            self._metrics.runs_finished["external", outcome.value].inc()
        return appended


@dataclass(frozen=True, slots=True)
class _Expired:
    run_id: str
    agent: str
    fence: int
    last_seq: int
    state: str
    age_s: float


class LeaseReaper:
    """Fails the runs whose external orchestrator has let its lease end."""

    def __init__(self, database: Database, log: EventLog, *, metrics: Metrics, owner: str, poll_s: float = 1.0) -> None:
        self._database = database
        self._log = log
        self._metrics = metrics
        self._owner = owner
        self._poll_s = poll_s

    async def run(self) -> None:
        while True:
            try:
                reaped = await self.reap()
            except DatabaseUnavailable:
                reaped = 0
            if reaped == 0:
                await asyncio.sleep(self._poll_s)

    async def reap(self) -> int:
        """One step: how many runs were failed with `error:lease_lost`. Each was fenced out before."""
        rows = await self._database.fetch(_SQL["take_expired_external"], self._owner, 100)
        await asyncio.gather(*(self._fail(_Expired(**row)) for row in rows))
        return len(rows)

    async def _fail(self, run: _Expired) -> None:
        """Whoever dies in the middle of this is followed by another, when the lease taken for it ends."""
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
