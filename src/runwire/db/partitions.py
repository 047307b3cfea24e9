"""Event partitions: created before the day that needs them, and detached without blocking appends or reads."""

from __future__ import annotations

import asyncio
import datetime as dt
from enum import StrEnum
from typing import Any, Final

from runwire.db.database import Database
from runwire.db.privileges import forbidden
from runwire.db.sql import load_sql
from runwire.db.translation import LOCK_NOT_AVAILABLE
from runwire.duties import Duty
from runwire.errors import DatabaseUnavailable

_SQL: Final = load_sql("runwire.db", "partitions.sql")
_PERIOD_S: Final = 3600.0
_AGAIN_FIRST_S: Final = 0.5
_AGAIN_MAX_S: Final = 60.0
"""Pause in seconds after a failure. The partitions ahead last for days, so it need not be short."""
_LOCK_TIMEOUT: Final = "5s"


class PartitionUpkeep:
    """Creates the partitions of the coming days every hour. Any number of processes may do so at once."""

    def __init__(self, database: Database, *, days_ahead: int) -> None:
        self._database = database
        self._days_ahead = days_ahead

    async def ensure(self) -> int:
        """One step: how many partitions were missing and are there now. Raises PartitionForbidden."""
        try:
            made: int = await self._database.fetchval(_SQL["ensure"], self._days_ahead)
        except DatabaseUnavailable as error:
            if forbidden(error):
                raise PartitionForbidden("the days to come") from error
            raise
        return made

    async def run(self) -> None:
        attempts = self._database.attempts(Duty.MAKE_PARTITIONS, first_s=_AGAIN_FIRST_S, longest_s=_AGAIN_MAX_S)
        while True:
            with attempts:
                await self.ensure()
            await asyncio.sleep(attempts.pause_s or _PERIOD_S)


class PartitionBusy(DatabaseUnavailable):
    """Another session still reads the partition, or changes the log's schema. Nothing was changed; try again later."""

    code = "partition_busy"

    def __init__(self, day: dt.date) -> None:
        super().__init__(f"the partition of {day} is in use")
        self.day = day


class PartitionForbidden(DatabaseUnavailable):
    """This process's role may not change the log's schema. The owner must do it, or grant it."""

    code = "partition_forbidden"

    def __init__(self, day: dt.date | str) -> None:
        super().__init__(
            f"the log has no partition for {day}, and the database role of this process may not make it: the owner "
            "of the tables runs `GRANT EXECUTE ON FUNCTION make_event_partition(date) TO <role>`, "
            "or `runwire migrate --days 7`"
        )
        self.day = day


class PartitionStatus(StrEnum):
    """The stage of a day's partition on its way out of the log."""

    ATTACHED = "attached"
    DETACHING = "detaching"
    DETACHED = "detached"
    GONE = "gone"


class EventPartitions:
    """Days of the log. Every way out gives up after a bounded wait, and goes on from where it was when asked again.

    Appends and reads are not held up: detaching waits beside them, not before them (DETACH ... CONCURRENTLY).
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def attached(self) -> list[dt.date]:
        """The days that have a partition, oldest first."""
        return [row["day"] for row in await self._database.fetch(_SQL["attached"])]

    async def status(self, day: dt.date) -> PartitionStatus:
        return PartitionStatus(await self._database.fetchval(_SQL["status"], partition_of(day)))

    async def make(self, day: dt.date) -> bool:
        """Whether the log lacked it; it is part of it now, with what its table had.

        Raises PartitionBusy and PartitionForbidden.
        """
        if await self.status(day) is PartitionStatus.DETACHING:
            await self.detach(day)
        made: bool = await self._alter(day, _SQL["make"], day)
        return made

    async def shrink(self, day: dt.date, *, at_most: int) -> int | None:
        """Leaves only events that are not in cold storage; how many they are. None, and nothing was changed, when they
        are more than `at_most`. Raises PartitionBusy after 100 ms.
        """
        kept: int | None = await self._alter(day, _SQL["shrink"], day, at_most)
        return kept

    async def detach(self, day: dt.date) -> None:
        """Takes the partition out of the log; its table stays. Raises PartitionBusy while somebody reads what it
        was part of; new statements do not see it any more by then.
        """
        status = await self.status(day)
        if status in (PartitionStatus.ATTACHED, PartitionStatus.DETACHING):
            how = "CONCURRENTLY" if status is PartitionStatus.ATTACHED else "FINALIZE"
            await self._alter(day, f"ALTER TABLE run_events DETACH PARTITION {partition_of(day)} {how}")

    async def drop(self, day: dt.date) -> bool:
        """Drops the table of a partition that was detached, and is False when it stays: a last look under its lock
        found events that are not in cold storage, or runs that may still write some. It is part of the log again then.
        Raises PartitionBusy.
        """
        return await self._alter(day, _SQL["drop"], day) in ("dropped", "gone")

    async def _alter(self, day: dt.date, sql: str, *args: object) -> Any:
        session = self._database.session("partitions", settings={"lock_timeout": _LOCK_TIMEOUT})
        try:
            row = await session.fetchrow(sql, *args)
        except DatabaseUnavailable as error:
            if error.sqlstate == LOCK_NOT_AVAILABLE:
                raise PartitionBusy(day) from error
            if forbidden(error):
                raise PartitionForbidden(day) from error
            raise
        finally:
            await session.aclose()
        return None if row is None else row[0]


def partition_of(day: dt.date) -> str:
    """The name of a day's table."""
    return f"run_events_{day:%Y%m%d}"
