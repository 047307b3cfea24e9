"""Event partitions exist before the day that needs them."""

from __future__ import annotations

import asyncio

import structlog

from runwire.db.database import Database
from runwire.errors import DatabaseUnavailable

_log = structlog.get_logger()
_PERIOD_S = 3600.0


class PartitionUpkeep:
    """Makes the partitions of the coming days, hourly. Any number of processes may do so at once."""

    def __init__(self, database: Database, *, days_ahead: int) -> None:
        self._database = database
        self._days_ahead = days_ahead

    async def ensure(self) -> int:
        """One step: how many partitions were missing and are there now."""
        made: int = await self._database.fetchval("SELECT ensure_event_partitions($1)", self._days_ahead)
        return made

    async def run(self) -> None:
        while True:
            try:
                await self.ensure()
            except DatabaseUnavailable as error:
                _log.warning("database_unavailable", doing="partitions", code=error.code)
            await asyncio.sleep(_PERIOD_S)
