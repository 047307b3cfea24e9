"""Creates the partition of a day when an append finds it missing: a run may outlive its day, or a clock be days
ahead.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Final

from runwire.clock import monotonic
from runwire.db import Database, load_sql
from runwire.db.partitions import EventPartitions, PartitionForbidden
from runwire.errors import DatabaseUnavailable, PartitionMissing
from runwire.telemetry.logs import LogEvent, get_logger

_SQL: Final = load_sql("runwire.append", "append.sql")
AGAIN_S: Final = 2.0
"""Seconds for which the result of one attempt holds for all appends to the same missing day."""
_DAYS_REMEMBERED: Final = 64

_log = get_logger()


class MissingDays:
    """Creates days beside the appending connections, so that appends to other days never wait."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._partitions = EventPartitions(database)
        self._one_at_a_time = asyncio.Lock()
        self._attempts: dict[dt.date, tuple[float, PartitionMissing | None]] = {}

    async def make_for(self, run_id: str) -> None:
        """Returns when the run's day is part of the log. Raises PartitionMissing, which says why it is not."""
        try:
            day = await self._database.fetchval(_SQL["run_day"], run_id)
        except DatabaseUnavailable as error:
            raise PartitionMissing(run_id) from error
        if day is None:  # the run is gone; the next append says so
            return
        async with self._one_at_a_time:
            at, problem = self._attempts.get(day, (-AGAIN_S, None))
            if monotonic() - at >= AGAIN_S:
                problem = await self._make(run_id, day)
                if len(self._attempts) >= _DAYS_REMEMBERED:
                    self._attempts.clear()
                self._attempts[day] = monotonic(), problem
        if problem is not None:
            raise PartitionMissing(run_id, str(problem))

    async def _make(self, run_id: str, day: dt.date) -> PartitionMissing | None:
        try:
            if await self._partitions.make(day):
                _log.warning(LogEvent.PARTITION_MADE, run_day=f"{day}", run_id=run_id)
        except PartitionForbidden as error:
            _log.error(LogEvent.APPEND_FAILED, code=error.code, run_day=f"{day}", run_id=run_id)
            return PartitionMissing(run_id, str(error))
        except DatabaseUnavailable as error:
            _log.warning(LogEvent.DATABASE_UNAVAILABLE, doing="partitions", code=error.code, run_day=f"{day}")
            return PartitionMissing(run_id)
        return None
