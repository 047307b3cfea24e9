"""The publisher's loop: wake, step, and back off when the bus or the database fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

from runwire.clock import monotonic, pause_s, wait_until_set
from runwire.db import Attempts
from runwire.duties import Duty
from runwire.errors import BusUnavailable, DatabaseFailed, DatabaseUnavailable
from runwire.publish.publisher import Publisher
from runwire.publish.settings import DEFAULTS, PublishSettings
from runwire.publish.shards import Shards
from runwire.telemetry.asyncpg_spans import suppressed
from runwire.telemetry.logs import LogEvent, get_logger

_log = get_logger()
_BACKOFF_FIRST_S = 0.02
KEEP_UP_S: Final = 0.05
"""Seconds for which a step of the publisher may hold back commits, so that a slow bus does not stop appends."""
LINGER_S: Final = 0.02
"""Seconds for which the transaction of the next step, begun by the last commit, stays open."""
_LAST_TRIES = 5  # in a row, of a publisher that stops: so many may fail before the bus counts as gone


class PublishWorker:
    """Runs a publisher until stopped. `mark_dirty` wakes it; every `sweep_s` it looks for unpublished events itself.

    Every `heartbeat_s` it says that it lives. It looks beside its publishing, on a connection of its own, so that no
    event waits for that.
    """

    def __init__(
        self,
        publisher: Publisher,
        *,
        shards: Shards | None = None,
        settings: PublishSettings = DEFAULTS,
    ) -> None:
        """`shards` are the publisher's; they are leased while it runs."""
        self._publisher = publisher
        self._shards = shards
        self._sweep_s = settings.publish_sweep_s
        self._backoff_max_s = settings.publish_backoff_max_s
        self._heartbeat_s = settings.publish_heartbeat_s
        self._wake = asyncio.Event()
        self._look = asyncio.Event()
        self._stopping = False
        self._sweep_due = 0.0
        self._heartbeat_due = 0.0
        self._failures = 0
        self._failing: str | None = None
        self._stepped = asyncio.Event()
        self._too_slow = False

    def mark_dirty(self, run_ids: Iterable[str], *, by: str = "local") -> list[str]:
        """Returns those of the runs that other publishers publish."""
        others = self._publisher.mark_dirty(run_ids, by=by)
        self._wake.set()
        return others

    async def keep_up(self) -> None:
        """Returns once publishing keeps up with appends, or after `KEEP_UP_S`.

        Appends in this process wait for it before each commit. Under overload, appends then take longer and more of
        them share a commit. Without it, appends would outrun publishing, and events would reach clients ever later.
        Appends never wait for a failing publisher, and never wait twice after a timeout.
        """
        until = monotonic() + KEEP_UP_S
        while self._publisher.behind and not (self._failures or self._too_slow) and (left := until - monotonic()) > 0:
            self._too_slow = not await wait_until_set(self._stepped, within_s=left)

    def sweep_soon(self) -> None:
        """Looks for unpublished events now, because hints may have been lost."""
        self._sweep_due = 0.0
        self._look.set()

    def stop(self) -> None:
        """Lets the loop publish its known runs and then end."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        try:
            with suppressed():  # `send runwire.events` stands in for what each statement would cost
                async with self._leased(), _beside(self._keep_looking(), name="publisher looks"):
                    while True:
                        if await self.step() == 0:
                            if self._stopping and self._did_its_best():
                                break
                            await self._sleep()
                with contextlib.suppress(DatabaseFailed):
                    await self._publisher.retire()
        finally:
            await self._publisher.aclose()
            if self._shards is not None:
                await self._shards.aclose()

    @asynccontextmanager
    async def _leased(self) -> AsyncIterator[None]:
        """Leases shards inside the block; the first ones before anything is published."""
        if self._shards is None:
            yield
            return
        with contextlib.suppress(DatabaseFailed):
            await self._shards.step(let_go=self._publisher.let_go)
        leasing = self._shards.run(let_go=self._publisher.let_go, on_taken=self.sweep_soon)
        async with _beside(leasing, name="shards"):
            yield

    async def look(self) -> None:
        """Sends the heartbeat and sweeps for events without a hint, each when it is due.

        Raises DatabaseUnavailable.
        """
        if monotonic() >= self._heartbeat_due:
            await self._publisher.heartbeat(failing=self._failing)
            self._heartbeat_due = monotonic() + self._heartbeat_s
        if monotonic() >= self._sweep_due:
            self._sweep_due = monotonic() + self._sweep_s
            if await self._publisher.sweep():
                self._wake.set()
            await self._publisher.park_idle()

    async def step(self) -> int:
        """One step of publishing: how many events went out; 0 after a failure, too."""
        try:
            published = await self._publisher.publish_pending()
        except (BusUnavailable, DatabaseFailed) as error:
            self._failures += 1
            self._failing = DatabaseUnavailable.code if isinstance(error, DatabaseFailed) else error.code
            self._publisher.troubles.begin(Duty.PUBLISH, str(error))
            _log.warning(LogEvent.PUBLISH_FAILED, code=error.code, why=str(error), failures=self._failures)
            return 0
        finally:
            self._too_slow = False
            self._stepped.set()  # for those who wait now
            self._stepped.clear()
        self._failures = 0
        if published or self._failing == DatabaseUnavailable.code:  # nothing to do proves nothing about the bus
            self._failing = None
            self._publisher.troubles.end(Duty.PUBLISH)
        return published

    async def _keep_looking(self) -> None:
        attempts = Attempts(
            Duty.SWEEP, self._publisher.troubles, first_s=_BACKOFF_FIRST_S, longest_s=self._backoff_max_s
        )
        while True:
            self._look.clear()
            with attempts:
                await self.look()
            if attempts.failures:
                await asyncio.sleep(attempts.pause_s)
                continue
            due = min(self._sweep_due, self._heartbeat_due)
            await wait_until_set(self._look, within_s=due - monotonic())

    def _did_its_best(self) -> bool:
        """Whether it may stop: nothing is left, or the rest cannot be published now and is left to another
        publisher.
        """
        if self._failures and self._failing == DatabaseUnavailable.code:
            return True
        return self._publisher.backlog_runs == 0 or self._failures > _LAST_TRIES

    async def _sleep(self) -> None:
        """Waits for work, or until failed runs have rested. After failures, a jittered pause that no wake-up
        shortens.
        """
        if self._failures:
            await asyncio.sleep(pause_s(self._failures, first_s=_BACKOFF_FIRST_S, longest_s=self._backoff_max_s))
            return
        self._wake.clear()
        if self._publisher.backlog_runs == 0:
            if await wait_until_set(self._wake, within_s=LINGER_S):
                return
            with contextlib.suppress(DatabaseUnavailable):
                await self._publisher.rest()
            await wait_until_set(self._wake, within_s=min(self._sweep_s, self._heartbeat_s))


@asynccontextmanager
async def _beside(loop: Coroutine[Any, Any, None], *, name: str) -> AsyncIterator[None]:
    """Runs the loop inside the block. A failing loop ends the block, and the block's end ends the loop."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(loop, name=name)
        yield
        task.cancel()
