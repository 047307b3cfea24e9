"""Takes days out of the log, once all they have is proven to be in cold storage."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Final

from runwire.archive.ledger import Held, Ledger
from runwire.archive.watching import Milestone, Watcher
from runwire.db.partitions import EventPartitions, PartitionStatus
from runwire.errors import ArchiveCorrupt

CARRY_AFTER_DAYS: Final = 2
"""Time after which a day no longer waits for its open runs; the other runs leave without them."""
CARRIED_EVENTS_MAX: Final = 100_000
"""Most events copied while the partition is locked. With more, the day stays until the runs that keep it end."""


class Left(StrEnum):
    """The result for one day."""

    DROPPED = "dropped"
    SHRUNK = "shrunk"
    KEPT = "kept"


class DayDropper:
    def __init__(self, ledger: Ledger, partitions: EventPartitions, *, after_days: int, watcher: Watcher) -> None:
        self._ledger = ledger
        self._partitions = partitions
        self._after_days = after_days
        self._watcher = watcher

    async def due(self) -> list[dt.date]:
        """Days that may have rows to drop."""
        attached = set(await self._partitions.attached())
        return [day for day, hot in await self._ledger.days() if hot or day in attached]

    async def drop(self, day: dt.date, *, today: dt.date) -> Left:
        """Drops as much of one day as is allowed now, and continues there after a crash.

        Raises PartitionBusy while somebody reads, and ArchiveCorrupt, dropping nothing, when the log has events of an
        archived run that the archive has not.
        """
        status = await self._partitions.status(day)
        if status is PartitionStatus.ATTACHED:
            held = await self._ledger.held(day)
            if others := [one.run_id for one in held if one.archived is not None]:
                raise ArchiveCorrupt(f"run {others[0]!r} has other events in the log than in the archive")
            if held:
                return await self._leave(day, held, today=today)
            self._watcher.reached(Milestone.FREE, f"{day}")
        if status is not PartitionStatus.GONE:
            await self._partitions.detach(day)
            self._watcher.reached(Milestone.DETACHED, f"{day}")
            if not await self._partitions.drop(day):  # somebody wrote since it was found free
                self._watcher.reached(Milestone.ATTACHED_AGAIN, f"{day}")
                return Left.KEPT
            self._watcher.reached(Milestone.TABLE_DROPPED, f"{day}")
        await self._ledger.dropped(day)
        self._watcher.reached(Milestone.DROPPED, f"{day}")
        return Left.DROPPED

    async def _leave(self, day: dt.date, held: list[Held], *, today: dt.date) -> Left:
        """Handles a day with runs that must stay for now."""
        if not await self._ledger.has_archived_rows(day):  # a crash after they went, and before that was noted
            return Left.SHRUNK if await self._ledger.dropped(day) else Left.KEPT
        overdue = today > day + dt.timedelta(days=self._after_days + CARRY_AFTER_DAYS)
        few = sum(one.events for one in held) <= CARRIED_EVENTS_MAX
        if not (overdue and few) or await self._partitions.shrink(day, at_most=CARRIED_EVENTS_MAX) is None:
            return Left.KEPT
        self._watcher.reached(Milestone.SHRUNK, f"{day}")
        await self._ledger.dropped(day)
        self._watcher.reached(Milestone.DROPPED, f"{day}")
        return Left.SHRUNK
