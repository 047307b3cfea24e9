"""Time as runwire reads it: monotonic for durations, PostgreSQL's clock for anything stored. And waiting for some."""

from __future__ import annotations

import asyncio
import time

monotonic = time.monotonic
"""Seconds of a clock that never goes back; for durations and deadlines."""


def wall_us() -> int:
    """Microseconds since the Unix epoch by this machine's clock."""
    return time.time_ns() // 1000


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Waits for the event, at most so long; whether it is set.

    Cancellation ends the wait whatever else happens. Until Python 3.12 `asyncio.wait_for` forgets it when the event is
    set in the same turn of the loop, and a loop that was to end goes on for ever.
    """
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return event.is_set()
