"""Repairs tails from PostgreSQL, many runs in a statement: events the bus only announced, lost or brought too early."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Sequence
from itertools import islice
from typing import Final, Protocol

from runwire.duties import Duty
from runwire.errors import DatabaseFailed
from runwire.model.event import StoredEvent
from runwire.stream.limits import PAGE_EVENTS_MAX
from runwire.stream.log import LogReader, Position
from runwire.stream.tail import Tail
from runwire.telemetry.logs import LogEvent, get_logger

RUNS_PER_READ: Final = 100
EVENTS_PER_READ: Final = 10_000
RUNS_PER_CHECK: Final = 1000

_log = get_logger()


class Repaired(Hashable, Protocol):
    """A run whose tail may lack something."""

    @property
    def tail(self) -> Tail: ...

    def learn(self, position: Position, *, after_silence: bool = False) -> None: ...

    def take(self, events: Sequence[StoredEvent]) -> None: ...


class CatchUp:
    """Two steps: `read` serves runs that asked, `check` finds runs that lack something without knowing.

    A read serves every run that asked during the previous one, as a group commit does: the busier, the larger.
    """

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._behind: dict[Repaired, None] = {}
        self._asked = asyncio.Event()
        self._failing = False

    def ask(self, run: Repaired) -> None:
        """Has the run served by the next read."""
        self._behind[run] = None
        self._asked.set()

    def forget(self, run: Repaired) -> None:
        self._behind.pop(run, None)

    async def read(self) -> int:
        """One step: reads events and ends for the runs that asked first. Returns the number of runs."""
        runs = list(islice(self._behind, RUNS_PER_READ))
        for run in runs:
            del self._behind[run]
        try:
            await self._read_tails(runs)
            await self._read_ends([run for run in runs if run.tail.wants_end])
        except DatabaseFailed as error:
            self._note_failure(error)
            for run in runs:
                run.tail.put_off()
        return len(runs)

    async def _read_tails(self, runs: Sequence[Repaired]) -> None:
        wanted = [(run, stretch) for run in runs if (stretch := run.tail.stretch_behind) is not None]
        if not wanted:
            return
        limit = min(PAGE_EVENTS_MAX, EVENTS_PER_READ // len(wanted))
        found = await self._reader.tails([stretch for _, stretch in wanted], limit=limit)
        for (run, _), events in zip(wanted, found, strict=True):
            run.take(events)

    async def _read_ends(self, runs: Sequence[Repaired]) -> None:
        if runs:
            positions = await self._reader.positions([run.tail.run_id for run in runs])
            for run in runs:
                if run.tail.run_id in positions:
                    run.learn(positions[run.tail.run_id])

    async def check(self, runs: Iterable[Repaired], *, now: float, silent: bool) -> int:
        """One step: reads the positions of runs that are due. Returns the number of runs it asked about.

        A run that lacks something it knows of is due within a second. A run that only heard nothing waits for a step
        with `silent`, so that one statement asks about many.
        """
        due = [run for run in runs if now >= run.tail.check_at and (silent or run.tail.is_missing_some)]
        for start in range(0, len(due), RUNS_PER_CHECK):
            batch = due[start : start + RUNS_PER_CHECK]
            quiet = {run for run in batch if not run.tail.is_missing_some}
            known = {run: run.tail.known for run in batch}
            try:
                positions = await self._reader.positions([run.tail.run_id for run in batch])
            except DatabaseFailed as error:
                self._note_failure(error)
                for run in batch:
                    run.tail.put_off()
                continue
            self._note_success()
            for run in batch:
                position = positions.get(run.tail.run_id)
                if position is None or position.last_seq < known[run]:  # gone, or restored to a point before its end
                    run.tail.lose()
                else:
                    run.learn(position, after_silence=run in quiet)
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
        """Serves the runs that ask, until cancelled."""
        while True:
            await self._asked.wait()
            if not self._behind:
                self._asked.clear()
                continue
            await self.read()
