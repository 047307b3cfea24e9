"""Brings hubs forward from PostgreSQL, many runs a statement: what the bus hinted at, lost or was too early for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from runwire.duties import Duty
from runwire.errors import DatabaseFailed
from runwire.stream.hub import Hub
from runwire.stream.limits import PAGE_EVENTS_MAX
from runwire.stream.reader import LogReader
from runwire.telemetry.logs import LogEvent, get_logger

HUBS_PER_READ: Final = 100
EVENTS_PER_READ: Final = 10_000
HUBS_PER_CHECK: Final = 1000

_log = get_logger()


class CatchUp:
    """Two steps, each with a loop round it: `read` serves hubs that are behind, `check` asks for those that are silent.

    A read takes what asked while the last one was under way, as a group commit does: the busier, the larger.
    """

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._behind: dict[Hub, None] = {}
        self._asked = asyncio.Event()
        self._failing = False

    def ask(self, hub: Hub) -> None:
        """Has the hub served by the next read."""
        self._behind[hub] = None
        self._asked.set()

    def forget(self, hub: Hub) -> None:
        self._behind.pop(hub, None)

    async def read(self) -> int:
        """One step: events and ends for the hubs that asked first. Returns how many hubs it was for."""
        hubs = list(islice(self._behind, HUBS_PER_READ))
        for hub in hubs:
            del self._behind[hub]
        try:
            await self._read_tails(hubs)
            await self._read_ends([hub for hub in hubs if hub.wants_end])
        except DatabaseFailed as error:
            self._note_failure(error)
            for hub in hubs:
                hub.put_off()
        return len(hubs)

    async def _read_tails(self, hubs: Sequence[Hub]) -> None:
        wanted = [(hub, stretch) for hub in hubs if (stretch := hub.stretch_behind) is not None]
        if not wanted:
            return
        limit = min(PAGE_EVENTS_MAX, EVENTS_PER_READ // len(wanted))
        found = await self._reader.tails([stretch for _, stretch in wanted], limit=limit)
        for (hub, _), events in zip(wanted, found, strict=True):
            hub.take(events)

    async def _read_ends(self, hubs: Sequence[Hub]) -> None:
        if hubs:
            positions = await self._reader.positions([hub.run_id for hub in hubs])
            for hub in hubs:
                if hub.run_id in positions:
                    hub.learn(positions[hub.run_id])

    async def check(self, hubs: Iterable[Hub], *, now: float, silent: bool) -> int:
        """One step: the positions of hubs that are due. Returns of how many it asked.

        Hubs that miss something they know of are due within a second; those that only heard nothing wait until
        `silent` says that it is time for them, so that one statement asks for many.
        """
        due = [hub for hub in hubs if now >= hub.check_at and (silent or hub.is_missing_some)]
        for start in range(0, len(due), HUBS_PER_CHECK):
            batch = due[start : start + HUBS_PER_CHECK]
            quiet = {hub for hub in batch if not hub.is_missing_some}
            known = {hub: hub.known for hub in batch}
            try:
                positions = await self._reader.positions([hub.run_id for hub in batch])
            except DatabaseFailed as error:
                self._note_failure(error)
                for hub in batch:
                    hub.put_off()
                continue
            self._note_success()
            for hub in batch:
                position = positions.get(hub.run_id)
                if position is None or position.last_seq < known[hub]:  # gone, or restored to a point before its end
                    hub.lose()
                else:
                    hub.learn(position, after_silence=hub in quiet)
        return len(due)

    def _note_failure(self, error: DatabaseFailed) -> None:
        if not self._failing:
            self._failing = True
            self._reader.troubles.begin(Duty.STREAM, str(error))
            _log.warning(LogEvent.DATABASE_UNAVAILABLE, doing="stream", code=error.code)

    def _note_success(self) -> None:
        if self._failing:
            self._failing = False
            self._reader.troubles.end(Duty.STREAM)
            _log.info(LogEvent.DATABASE_RECOVERED, doing="stream")

    async def run(self) -> None:
        """Reads for whoever asks, until cancelled."""
        while True:
            await self._asked.wait()
            if not self._behind:
                self._asked.clear()
                continue
            await self.read()
