"""Loops that the streams of a process share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from runwire.clock import monotonic
from runwire.telemetry.logs import LogEvent, get_logger

_log = get_logger()


async def every(period_s: float, step: Callable[[float], Awaitable[None]]) -> None:
    """Takes a step once in a period, with the time by the monotonic clock, until cancelled."""
    while True:
        await asyncio.sleep(period_s)
        await step(monotonic())


async def kept_running(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Restarts a shared loop a second after a defect in it: a defect must not cost every stream of the process."""
    while True:
        try:
            await loop()
        except Exception:  # noqa: BLE001  # see above
            _log.exception(LogEvent.TASK_FAILED, task=f"streams: {name}")
            await asyncio.sleep(1.0)
