"""Ends cancelled runs that no worker walks: at once on the request, and any left over in a later sweep."""

from __future__ import annotations

from typing import Final

from runwire.append import AtRest
from runwire.db import Database, load_sql
from runwire.errors import AppendError
from runwire.telemetry.logs import LogEvent, get_logger
from runwire.telemetry.metrics import Metrics

_SQL: Final = load_sql("runwire.orchestrate", "orchestrate.sql")
_SWEEP_MAX: Final = 100
_log = get_logger()


class Cancelling:
    """`cancel` and `sweep` are safe beside claims, signals and each other: the run's row lock decides."""

    def __init__(self, database: Database, at_rest: AtRest, *, metrics: Metrics) -> None:
        self._database = database
        self._at_rest = at_rest
        self._metrics = metrics

    async def cancel(self, run_id: str) -> bool:
        """Ends the run if no worker walks it, and returns whether it did. Otherwise the run's worker ends it.

        Raises DatabaseUnavailable, and AppendError where its log has no room for its end.
        """
        ended = await self._at_rest.cancel(run_id)
        if ended is None:
            return False
        agent = "external" if ended.external else ended.agent
        if ended.was == "pending":
            self._metrics.runs_started[agent].inc()
        self._metrics.runs_finished[agent, "cancelled"].inc()
        self._metrics.run_duration["cancelled"].observe(ended.took_s)
        _log.info(
            LogEvent.RUN_FINISHED,
            run_id=run_id,
            agent=ended.agent,
            outcome="cancelled",
            error_code=None,
            duration_s=round(ended.took_s, 3),
        )
        return True

    async def sweep(self) -> int:
        """One step: ends those whose request was stored and whose end was not, and those nobody has come back to."""
        rows = await self._database.fetch(_SQL["cancelled_at_rest"], _SWEEP_MAX)
        ended = 0
        for row in rows:
            try:
                ended += await self.cancel(row["run_id"])
            except AppendError as error:
                _log.warning(LogEvent.APPEND_FAILED, run_id=row["run_id"], code=error.code)
        return ended
