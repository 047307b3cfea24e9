"""Reads the bytes that parts have beyond what their streams were told, of many runs in one statement.

Other processes only hint that a part has grown, and any news may be lost. A read serves every watch that asked during
the previous one, as `CatchUp` does for events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from itertools import islice
from typing import Final, Protocol

from runwire.content.part_writer import Written
from runwire.content.parts import PartReader, Reach
from runwire.duties import Duty
from runwire.errors import DatabaseFailed
from runwire.stream.mixed.reader import PART_BYTES
from runwire.telemetry.logs import LogEvent, get_logger

PARTS_PER_READ: Final = 256
"""Parts of one statement, and so 8 MiB of bytes."""
AGAIN_S: Final = 0.2

_log = get_logger()


class Behind(Hashable, Protocol):
    """A watch whose parts may have grown."""

    @property
    def run_id(self) -> str: ...

    def reaches(self) -> Sequence[Reach]:
        """The open attempts, and how far each was told."""

    def hear(self, written: Written) -> None:
        """Takes bytes of an attempt, new or not."""


class PartCatchUp:
    """One step, `read`, and the loop that takes it."""

    def __init__(self, parts: PartReader) -> None:
        self._parts = parts
        self._behind: dict[Behind, None] = {}
        self._asked = asyncio.Event()

    def ask(self, watch: Behind) -> None:
        """Has the watch served by the next read."""
        self._behind[watch] = None
        self._asked.set()

    def forget(self, watch: Behind) -> None:
        self._behind.pop(watch, None)

    async def read(self) -> int:
        """One step: reads for those that asked first. Returns how many parts had grown. Raises DatabaseFailed; then
        they are asked about again.
        """
        watches: list[Behind] = []
        reaches: list[tuple[Behind, Reach]] = []
        for watch in islice(self._behind, PARTS_PER_READ):
            if len(reaches) >= PARTS_PER_READ:
                break
            watches.append(watch)
            reaches += [(watch, reach) for reach in watch.reaches()]
        for watch in watches:
            del self._behind[watch]
        try:
            found = await self._parts.beyond([reach for _, reach in reaches], limit=PART_BYTES) if reaches else {}
        except DatabaseFailed:
            for watch in watches:
                self.ask(watch)
            raise
        for i, grown in found.items():
            watch, reach = reaches[i]
            watch.hear(Written(watch.run_id, reach.n, reach.attempt, reach.at, grown.data, grown.written_us))
            if reach.at + len(grown.data) < grown.size:
                self.ask(watch)
        return len(found)

    async def run(self) -> None:
        """Serves those that ask, until cancelled."""
        while True:
            await self._asked.wait()
            if not self._behind:
                self._asked.clear()
                continue
            try:
                await self.read()
            except DatabaseFailed as error:  # the next one does it
                _log.debug(LogEvent.DATABASE_UNAVAILABLE, doing=Duty.STREAM.value, code=error.code)
                await asyncio.sleep(AGAIN_S)
