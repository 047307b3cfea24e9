"""Notices that the log is another one: restored to an earlier point, or failed over to a copy that lacked its end.

A process remembers runs of the other history then, and must not serve two histories as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from runwire.clock import wait_until_set
from runwire.db import Database, load_sql
from runwire.duties import Duty
from runwire.telemetry.logs import LogEvent, get_logger

_SQL: Final = load_sql("runwire.stream", "epoch.sql")
PERIOD_S: Final = 2.0

_log = get_logger()


class LogEpoch:
    """`on_change` is called when the log's history is another one. Run its loop; `wake` has it look at once."""

    def __init__(self, database: Database, *, on_change: Callable[[], None], period_s: float = PERIOD_S) -> None:
        self._database = database
        self._on_change = on_change
        self._period_s = period_s
        self._history: str | None = None
        self._beats = 0
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Connections were lost, as a restore cuts them."""
        self._wake.set()

    async def look(self) -> bool:
        """One step: whether the history has changed since the one before. Raises DatabaseUnavailable."""
        row = await self._database.fetchrow(_SQL["beat"])
        if row is None:  # the row is gone, and with it what it says
            return False
        known, beats = self._history, self._beats
        self._history, self._beats = row["history"], row["beats"]
        if known is None or (known == row["history"] and beats < row["beats"]):
            return False
        _log.warning(LogEvent.LOG_RESTORED, went_back=known == row["history"])
        self._on_change()
        return True

    async def run(self) -> None:
        attempts = self._database.attempts(Duty.STREAM, facts={"step": "epoch"})
        while True:
            self._wake.clear()
            with attempts:
                await self.look()
            await wait_until_set(self._wake, within_s=attempts.pause_s or self._period_s)
