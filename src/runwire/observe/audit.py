"""The live audit of the invariants: open runs repeatedly, closed ones one after the other, within a budget.

Its findings are in the table `audit_findings`, which every observer reads and writes. So a finding outlives the
observer that made it, and stays until a look finds its run mended.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Protocol

from runwire.db import Database, Row, load_sql
from runwire.errors import DatabaseUnavailable
from runwire.observe.metrics import Invariant, ObserverMetrics
from runwire.telemetry.logs import LogEvent, get_logger

_SQL: Final = load_sql("runwire.observe", "observe.sql")
_PAGE_RUNS: Final = 500
_OF_THE_LOG: Final = frozenset(Invariant) - {Invariant.ARCHIVE_EQUALS_LOG}
_log = get_logger()


@dataclass(slots=True)
class _Round:
    """A walk through runs, in the order of column `by`, that begins anew when it has come to the end."""

    statement: str
    begin: str | dt.datetime = ""
    by: str = "run_id"
    after: str | dt.datetime = field(init=False)

    def __post_init__(self) -> None:
        self.after = self.begin


class ArchiveAudit(Protocol):
    """Looks at runs in cold storage."""

    async def step(self, again: frozenset[str]) -> tuple[set[str], set[str]]:
        """The runs of this look, including some of `again`, and those that differ in the archive."""


class Audit:
    """`step` looks at runs worth `budget_events` events: first the ones known to be broken, then open ones, those
    that have just ended, then any.

    An event is looked at in the primary key alone and costs half a microsecond, so the share of the database
    that auditing takes is bounded, whatever it holds.
    """

    def __init__(
        self,
        database: Database,
        metrics: ObserverMetrics,
        *,
        budget_events: int = 50_000,
        archive: ArchiveAudit | None = None,
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._budget = budget_events
        self._archive = archive
        self._known_after = ""
        self._open = _Round(_SQL["open_runs"])
        self._closed = _Round(_SQL["closed_runs"], begin=dt.datetime.fromtimestamp(0, dt.UTC), by="after")

    async def step(self) -> int:
        """Returns how many runs it looked at. The counter counts new violations, the gauge the present ones that nobody
        has acknowledged.
        """
        known = await self._known()
        progress = await self._database.fetchrow(_SQL["audit_progress"])
        if progress is None:
            raise DatabaseUnavailable("the audit's progress is missing")
        of_all = _Round(_SQL["all_runs"])
        of_all.after = progress["after"]
        looked = {run_id for run_id, kind in known if kind != Invariant.ARCHIVE_EQUALS_LOG}
        for walk in (self._open, self._closed, of_all):
            looked |= await self._next(walk, self._budget // 3)
        rows = await self._database.fetch(_SQL["audit"], list(looked))
        found = {(row["run_id"], row["invariant"]) for row in rows}
        await self._settle(known, looked, found, among=_OF_THE_LOG)
        in_archive = await self._look_at_archive(known)
        await self._database.execute(_SQL["audit_advance"], progress["after"], progress["begun_at"], of_all.after)
        await self._tell(progress)
        return len(looked) + in_archive

    async def _known(self) -> set[tuple[str, str]]:
        """(run id, invariant) of a page of the findings."""
        rows = await self._database.fetch(_SQL["known_findings"], self._known_after, _PAGE_RUNS)
        self._known_after = rows[-1]["run_id"] if len(rows) == _PAGE_RUNS else ""
        return {(row["run_id"], row["invariant"]) for row in rows}

    async def _look_at_archive(self, known: set[tuple[str, str]]) -> int:
        if self._archive is None:
            return 0
        again = frozenset(run_id for run_id, kind in known if kind == Invariant.ARCHIVE_EQUALS_LOG)
        looked, broken = await self._archive.step(again)
        found = {(run_id, Invariant.ARCHIVE_EQUALS_LOG.value) for run_id in broken}
        await self._settle(known, looked, found, among={Invariant.ARCHIVE_EQUALS_LOG})
        return len(looked)

    async def _next(self, walk: _Round, budget: int) -> set[str]:
        rows = await self._database.fetch(walk.statement, walk.after, _PAGE_RUNS)
        chosen: set[str] = set()
        for row in rows:
            chosen.add(row["run_id"])
            walk.after = row[walk.by]
            budget -= row["last_seq"]
            if budget <= 0:
                return chosen
        if len(rows) < _PAGE_RUNS:
            walk.after = walk.begin
        return chosen

    async def _settle(
        self,
        known: set[tuple[str, str]],
        looked: set[str],
        found: set[tuple[str, str]],
        *,
        among: Collection[Invariant],
    ) -> None:
        """Stores what a look has found. One that found nothing, and knew of nothing, writes nothing."""
        if not (found or known):
            return
        pairs = sorted(found)
        new = await self._database.fetch(
            _SQL["settle_findings"],
            sorted(looked),
            [kind.value for kind in among],
            [run_id for run_id, _ in pairs],
            [kind for _, kind in pairs],
        )
        for row in new:
            self._metrics.violations[row["invariant"]].inc()
            _log.error(LogEvent.INVARIANT_BROKEN, run_id=row["run_id"], invariant=row["invariant"])

    async def _tell(self, progress: Row) -> None:
        rows = await self._database.fetch(_SQL["open_findings"])
        broken = {row["invariant"]: row["runs"] for row in rows}
        for invariant in Invariant:
            self._metrics.violating_runs[invariant].set(broken.get(invariant.value, 0))
        self._metrics.audit_coverage_age.set(max(progress["covered_s"], 0.0))
