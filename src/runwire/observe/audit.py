"""The live audit of the invariants: open runs repeatedly, closed ones one after the other, within a budget."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from runwire.db import Database, load_sql
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
        self._open = _Round(_SQL["open_runs"])
        self._closed = _Round(_SQL["closed_runs"], begin=dt.datetime.fromtimestamp(0, dt.UTC), by="after")
        self._all = _Round(_SQL["all_runs"])
        self._broken: set[tuple[str, str]] = set()

    @property
    def broken(self) -> frozenset[tuple[str, str]]:
        """(run id, invariant) of the violations that are not mended yet."""
        return frozenset(self._broken)

    async def step(self) -> int:
        """Returns how many runs it looked at. The counter counts new violations, the gauge the present ones."""
        looked = {run_id for run_id, kind in self._broken if kind != Invariant.ARCHIVE_EQUALS_LOG}
        for walk in (self._open, self._closed, self._all):
            looked |= await self._next(walk, self._budget // 3)
        rows = await self._database.fetch(_SQL["audit"], list(looked))
        self._tell(looked, {(row["run_id"], row["invariant"]) for row in rows}, among=_OF_THE_LOG)
        return len(looked) + await self._look_at_archive()

    async def _look_at_archive(self) -> int:
        if self._archive is None:
            return 0
        again = frozenset(run_id for run_id, kind in self._broken if kind == Invariant.ARCHIVE_EQUALS_LOG)
        looked, broken = await self._archive.step(again)
        found = {(run_id, Invariant.ARCHIVE_EQUALS_LOG.value) for run_id in broken}
        self._tell(looked, found, among={Invariant.ARCHIVE_EQUALS_LOG})
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

    def _tell(self, looked: Iterable[str], found: set[tuple[str, str]], *, among: Collection[str]) -> None:
        for run_id, invariant in sorted(found - self._broken):
            self._metrics.violations[invariant].inc()
            _log.error(LogEvent.INVARIANT_BROKEN, run_id=run_id, invariant=invariant)
        seen = set(looked)
        self._broken = {known for known in self._broken if known[0] not in seen or known[1] not in among} | found
        for invariant in Invariant:
            self._metrics.violating_runs[invariant].set(sum(1 for _, kind in self._broken if kind == invariant))
