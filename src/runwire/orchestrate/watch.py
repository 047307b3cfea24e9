"""The watch: a thread with an event loop and a session of its own, which goes on while the worker's event loop stands.

Threads: `Watch` is entered and left in the worker's event loop. Everything else runs in the watch's thread, but for the
callbacks it is given: those run in the worker's loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from runwire.clock import monotonic, set_within
from runwire.db import Attempts, Troubles
from runwire.duties import Duty
from runwire.errors import DatabaseFailed
from runwire.orchestrate.sessions import LOOK_S, NOTHING, Taken, WorkerSession
from runwire.telemetry.asyncpg_spans import suppressed
from runwire.telemetry.logs import LogEvent, get_logger

_TICK_S: Final = 0.1
_FAILED_S: Final = 1.0
"""Pause after a failed look. A session that was merely cut is had again at the first attempt."""
_log = get_logger()


class Watch:
    """Inside `async with`, this worker's session is held and other workers' are looked at, five times a second.

    `on_taken` is called with what was taken from workers that are gone: it may be claimed.
    """

    def __init__(
        self,
        session: WorkerSession,
        *,
        on_taken: Callable[[Taken], None],
        heartbeat_s: float = 10.0,
        attempts: Attempts | None = None,
    ) -> None:
        self._session = session
        self._attempts = attempts or Attempts(Duty.WATCH, Troubles())
        self._on_taken = on_taken
        self._heartbeat_s = heartbeat_s
        self._worker_loop: asyncio.AbstractEventLoop | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._main, name="runwire watch", daemon=True)

    async def __aenter__(self) -> Self:
        """Returns when the watch runs; the session is had as soon as the database gives it."""
        self._worker_loop = asyncio.get_running_loop()
        self._thread.start()
        await asyncio.to_thread(self._started.wait)
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """The worker has let go of its runs: others need not look for it."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        await asyncio.to_thread(self._thread.join)

    # ------------------------------------------------------------------ in the thread

    def _main(self) -> None:
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started.set()
        with suppressed():
            try:
                await self._look_until_stopped()
                await self._session.leave()
            except DatabaseFailed:
                pass  # others find the session gone, and nothing in its hands
            finally:
                await self._session.aclose()

    async def _look_until_stopped(self) -> None:
        look_at = seen_at = monotonic()
        while not self._stop.is_set():
            now = monotonic()
            try:
                with self._attempts:
                    if now >= look_at or not self._session.held:
                        look_at = now + LOOK_S
                        self._tell(await self._session.look())
                    if now >= seen_at:
                        seen_at = now + self._heartbeat_s
                        await self._session.renew({}, lease_s=0)
                if self._attempts.failures:
                    await set_within(self._stop, _FAILED_S)
            except Exception as error:  # noqa: BLE001  # without it, deaths would be noticed by nobody
                _log.error(LogEvent.TASK_FAILED, task="watch", error_type=type(error).__name__)
                await set_within(self._stop, _FAILED_S)
            await set_within(self._stop, _TICK_S)

    def _tell(self, taken: Taken) -> None:
        if taken is not NOTHING and self._worker_loop is not None:
            self._worker_loop.call_soon_threadsafe(self._on_taken, taken)
