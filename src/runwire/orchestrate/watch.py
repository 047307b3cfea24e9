"""The watch: a thread with its own event loop and session, which keeps working while the worker's loop is blocked.

Threads: `Watch` is entered and left in the worker's event loop, and calls `on_taken` there. Everything else runs in the
watch's thread, in two tasks: one asks the database and may wait for it, the other never waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Self

from prometheus_client import Counter

from runwire.clock import monotonic, wait_until_set
from runwire.db import Attempts, Troubles
from runwire.duties import Duty
from runwire.errors import DatabaseFailed
from runwire.orchestrate.beat import Beat
from runwire.orchestrate.node_exit import nodes_kept_from_exiting
from runwire.orchestrate.sessions import LOOK_S, NOTHING, Taken, WorkerSession
from runwire.orchestrate.settings import DEFAULTS
from runwire.orchestrate.stall import Stall, Standing
from runwire.telemetry.asyncpg_spans import suppressed
from runwire.telemetry.labels import EXTERNAL
from runwire.telemetry.logs import LogEvent, get_logger

_TICK_S: Final = 0.1
_FAILED_S: Final = 1.0
"""Seconds after a failed look. A session that was merely cut reopens at the first attempt."""
_TELL_S: Final = 1.0
"""Seconds after which a blocked event loop is reported, and between updates of the run's diagnosis."""
_OWN_UP_S: Final = 5.0
_log = get_logger()


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """Seconds. `margin_s`: how long an event loop may stand past its node's time-out before the process is given up;
    `unknown_s`: how long it may stand when no node is known to be to blame.
    """

    heartbeat_s: float = DEFAULTS.lease_heartbeat_s
    lease_s: float = DEFAULTS.lease_s
    margin_s: float = 10.0
    unknown_s: float = 60.0


_LIMITS: Final = WatchLimits()


class Watch:
    """Inside `async with`, it holds this worker's session, looks at those of others, and watches the event loop.

    `on_taken` gets the runs of dead workers, which are claimable now. While the event loop is blocked, the watch renews
    the leases of the worker's runs (`held`: run id to fence), reports the node that blocks it, and cuts that node after
    its time-out. When the node cannot be cut, the watch calls `give_up`, which must end the process.
    """

    def __init__(
        self,
        session: WorkerSession,
        *,
        beat: Beat,
        held: Callable[[], Mapping[str, int]],
        on_taken: Callable[[Taken], None],
        blocked: Mapping[str, Counter],
        give_up: Callable[[], None],
        limits: WatchLimits = _LIMITS,
        attempts: Attempts | None = None,
    ) -> None:
        """`blocked` counts seconds, by node."""
        self._session = session
        self._attempts = attempts or Attempts(Duty.WATCH, Troubles())
        self._beat = beat
        self._held = held
        self._on_taken = on_taken
        self._blocked = blocked
        self._give_up = give_up
        self._limits = limits
        self._worker_loop: asyncio.AbstractEventLoop | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stall: Stall | None = None
        self._standing: Standing | None = None
        self._tell_at = self._renew_at = 0.0
        self._given_up = False
        self._stop = asyncio.Event()
        self._clear = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._main, name="runwire watch", daemon=True)
        self._cutting = ExitStack()

    async def __aenter__(self) -> Self:
        """Returns when the watch runs. The session opens as soon as the database allows."""
        self._worker_loop = asyncio.get_running_loop()
        self._stall = Stall(self._worker_loop, self._beat)
        self._cutting.enter_context(self._beat.cutting())
        self._cutting.enter_context(nodes_kept_from_exiting())
        self._thread.start()
        await asyncio.to_thread(self._started.wait)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Removes the worker, which has released its runs, so that others do not look for it."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        await asyncio.to_thread(self._thread.join)
        self._cutting.close()

    async def deaths_counted(self, *, within_s: float) -> bool:
        """Waits until every worker's death is found and counted; returns False when that takes too long.

        A claim before that takes the run of a dead worker by its expired lease, and its loss would count for nothing.
        """
        return await wait_until_set(self._clear, within_s=within_s)

    # ------------------------------------------------------------------ in the thread

    def _main(self) -> None:
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started.set()
        with suppressed():
            looking = asyncio.create_task(self._look_until_stopped())
            try:
                await self._watch_until_stopped()
                await looking
                await self._session.leave()
            except DatabaseFailed:
                pass  # others find the session gone, and nothing in its hands
            finally:
                await self._session.aclose()

    async def _look_until_stopped(self) -> None:
        look_at = seen_at = 0.0
        while not self._stop.is_set():
            now = monotonic()
            try:
                with self._attempts:
                    if now >= look_at or not self._session.held:
                        look_at = now + LOOK_S
                        self._tell(await self._session.look())
                        if self._session.clear and self._worker_loop is not None:
                            self._worker_loop.call_soon_threadsafe(self._clear.set)
                    if now >= seen_at:
                        seen_at = now + self._limits.heartbeat_s
                        await self._session.renew({}, lease_s=0)
                    if self._standing is not None:
                        await self._stand_in(self._standing)
                if self._attempts.failures:
                    await wait_until_set(self._stop, within_s=_FAILED_S)
            except Exception as error:  # noqa: BLE001  # without it, deaths would be noticed by nobody
                _log.error(LogEvent.TASK_FAILED, task="watch", error_type=type(error).__name__)
                await wait_until_set(self._stop, within_s=_FAILED_S)
            await wait_until_set(self._stop, within_s=_TICK_S)

    def _tell(self, taken: Taken) -> None:
        if taken is not NOTHING and self._worker_loop is not None:
            self._worker_loop.call_soon_threadsafe(self._on_taken, taken)

    # ------------------------------------------------------------------ an event loop that stands

    async def _watch_until_stopped(self) -> None:
        """Runs beside the database's steps, so that it never waits for the database."""
        while not self._stop.is_set():
            self._observe(self._stall.look() if self._stall is not None else None)
            await wait_until_set(self._stop, within_s=_TICK_S)

    def _observe(self, standing: Standing | None) -> None:
        before, self._standing = self._standing, standing
        if standing is None:
            if before is not None and before.seconds >= _TELL_S:
                _log.warning(LogEvent.LOOP_FREED, blocked_s=round(before.seconds, 1), **_about(before))
            self._renew_at = self._tell_at = 0.0
            self._given_up = False  # it was freed before its runs were handed over
            return
        node = standing.node.node if standing.node is not None else EXTERNAL
        self._blocked[node].inc(standing.seconds - (before.seconds if before is not None else 0.0))
        if standing.seconds >= _TELL_S and (before is None or before.seconds < _TELL_S):
            _log.warning(
                LogEvent.LOOP_BLOCKED, blocked_s=round(standing.seconds, 1), frames=standing.frames, **_about(standing)
            )
        over_s = self._over_s(standing)
        if over_s >= 0 and not self._given_up:
            self._given_up = True
            _log.error(
                LogEvent.LOOP_GIVEN_UP, blocked_s=round(standing.seconds, 1), frames=standing.frames, **_about(standing)
            )
        if over_s >= _OWN_UP_S:  # the database does not answer
            self._give_up()

    def _over_s(self, standing: Standing) -> float:
        """Seconds for which the event loop has been blocked beyond its limit; negative before."""
        if standing.node is None:
            return standing.seconds - self._limits.unknown_s
        return min(standing.seconds, monotonic() - standing.node.deadline) - self._limits.margin_s

    async def _stand_in(self, standing: Standing) -> None:
        """Does the blocked event loop's work: renews its leases and reports the node that blocks it."""
        now = monotonic()
        if self._given_up:
            if standing.node is not None:
                await self._session.own_up(self._held(), culprit=standing.node.run_id)
            self._give_up()
            return
        if now >= self._renew_at:
            self._renew_at = now + self._limits.heartbeat_s
            await self._session.renew(self._held(), lease_s=self._limits.lease_s)
        if standing.node is not None and standing.seconds >= _TELL_S and now >= self._tell_at:
            self._tell_at = now + _TELL_S
            node = standing.node
            await self._session.tell_block(node.run_id, node=node.node, at=standing.at, blocked_s=standing.seconds)


def _about(standing: Standing) -> dict[str, str]:
    node = standing.node
    if node is None:
        return {"at": standing.at}
    return {"run_id": node.run_id, "agent": node.agent, "node": node.node, "at": standing.at}
