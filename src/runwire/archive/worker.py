"""The archiver's loop: it does all due work and rests for long, or after a failure for a short, growing time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from runwire.archive.metrics import ArchiveMetrics
from runwire.archive.retention import Archiver, ArchiverBusy, Did, reason_of
from runwire.archive.watching import Watcher
from runwire.clock import pause_s
from runwire.errors import ArchiveUnavailable, DatabaseFailed
from runwire.telemetry.asyncpg_spans import suppressed
from runwire.telemetry.logs import LogEvent, get_logger

_AGAIN_FIRST_S: Final = 2.0
_AGAIN_MAX_S: Final = 60.0

_log = get_logger()


class Considerate(Watcher):
    """Share of the time that the archiver works at most, so that a process that also serves stays quick."""

    async def breathe(self, worked_s: float) -> None:
        await asyncio.sleep(2 * worked_s)


class ArchiveWorker:
    """Runs an archiver until cancelled. Where several run, one works and the others wait to take over."""

    def __init__(self, make_archiver: Callable[[], Archiver], metrics: ArchiveMetrics, *, period_s: float) -> None:
        """`make_archiver` opens the archive, which may fail, too, and is then tried again."""
        self._make_archiver = make_archiver
        self._archiver: Archiver | None = None
        self._metrics = metrics
        self._period_s = period_s
        self._failures = 0

    async def run(self) -> None:
        try:
            with suppressed():
                while True:
                    rest_s = await self.work()
                    await asyncio.sleep(rest_s)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Releases the right to archive to another process."""
        if self._archiver is not None:
            await self._archiver.aclose()

    async def work(self) -> float:
        """Does all due steps, and returns how many seconds to rest."""
        try:
            if self._archiver is None:
                self._archiver = self._make_archiver()
            while (await self._archiver.step()).did is not Did.NOTHING:
                self._failures = 0
        except ArchiverBusy:
            return min(self._period_s, _AGAIN_MAX_S)
        except (ArchiveUnavailable, DatabaseFailed) as error:
            self._failures += 1
            self._metrics.failures[reason_of(error)].inc()
            _log.warning(LogEvent.ARCHIVE_FAILED, code=reason_of(error).value, failures=self._failures)
            return pause_s(self._failures, first_s=_AGAIN_FIRST_S, longest_s=min(_AGAIN_MAX_S, self._period_s))
        finally:
            await self.aclose()  # while this one rests, somebody may restore, or archive by hand
        self._failures = 0
        return self._period_s
