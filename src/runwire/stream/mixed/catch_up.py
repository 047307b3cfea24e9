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
        self._behind: dict[Behind, int] = {}
        """Each with the time (epoch us) since which it lacks bytes; 0 where nobody knows whether it lacks any."""
        self._asked = asyncio.Event()

    def ask(self, watch: Behind, *, since_us: int = 0) -> None:
        """Has the watch served by the next read. `since_us`: when the news came of the bytes that it lacks."""
        self._behind[watch] = self._behind.get(watch) or since_us
        self._asked.set()

    def forget(self, watch: Behind) -> None:
        self._behind.pop(watch, None)

    async def read(self) -> int:
        """One step: reads for those that asked first. Returns how many parts had grown. Raises DatabaseFailed; then
        they are asked about again.
        """
        watches: dict[Behind, int] = {}
        reaches: list[tuple[Behind, Reach]] = []
        for watch, since_us in islice(self._behind.items(), PARTS_PER_READ):
            if len(reaches) >= PARTS_PER_READ:
                break
            watches[watch] = since_us
            reaches += [(watch, reach) for reach in watch.reaches()]
        for watch in watches:
            del self._behind[watch]
        try:
            found = await self._parts.beyond([reach for _, reach in reaches], limit=PART_BYTES) if reaches else {}
        except DatabaseFailed:
            for watch, since_us in watches.items():
                self.ask(watch, since_us=since_us)
            raise
        for i, grown in found.items():
            watch, reach = reaches[i]
            # The time is that of the last bytes. On a slow way they have come a while after the news of the first.
            written_us = min(grown.written_us, watches[watch] or grown.written_us)
            watch.hear(Written(watch.run_id, reach.n, reach.attempt, reach.at, grown.data, written_us))
            if reach.at + len(grown.data) < grown.size:
                self.ask(watch, since_us=written_us)
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
