"""Ends runs that no worker walks. The process that takes the request to cancel such a run appends its last events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from runwire.append.days import MissingDays
from runwire.db import Database, NoPartition, load_sql
from runwire.model.event import EventType
from runwire.telemetry.metrics import Metrics

_SQL: Final = load_sql("runwire.append", "append.sql")


@dataclass(frozen=True, slots=True)
class CancelledAtRest:
    """A run that was ended: `was` is its state before, `took_s` the time since its start call, waits left out."""

    agent: str
    external: bool
    was: str
    took_s: float


class AtRest:
    """Ends cancelled runs at rest, one transaction each. `on_committed` is called with the ids of runs that ended."""

    def __init__(
        self,
        database: Database,
        *,
        metrics: Metrics,
        on_committed: Callable[[list[str]], None],
    ) -> None:
        self._database = database
        self._days = MissingDays(database)
        self._metrics = metrics
        self._on_committed = on_committed

    async def cancel(self, run_id: str) -> CancelledAtRest | None:
        """The ended run; None when the run has ended already, has a worker, or has no request to cancel it.

        Raises DatabaseUnavailable, or PartitionMissing for a run whose day cannot be made.
        """
        try:
            row = await self._database.fetchrow(_SQL["cancel_at_rest"], run_id)
        except NoPartition:
            await self._days.make_for(run_id)
            row = await self._database.fetchrow(_SQL["cancel_at_rest"], run_id)
        if row is None:
            return None
        if row["was"] == "pending":
            self._metrics.events_appended[EventType.RUN_STARTED].inc()
        self._metrics.events_appended[EventType.DEBUG_TRACE].inc()
        self._metrics.events_appended[EventType.RUN_FINISHED].inc()
        self._on_committed([run_id])
        return CancelledAtRest(row["agent"], row["external"], row["was"], row["took_s"])
