"""Time as runwire reads it: monotonic for durations, PostgreSQL's clock for anything stored. And waiting for some."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

monotonic = time.monotonic
"""Seconds of a clock that never goes back; for durations and deadlines."""

_DOUBLINGS_MAX: Final = 64

JITTER: Final = random.Random()  # noqa: S311  # jitter needs no secrecy
"""Spreads pauses and ages. A program that seeds the global generator would have all processes act alike."""


def longest_pause_s(failures: int, *, first_s: float, longest_s: float) -> float:
    """The upper end of the pause after so many failures in a row: `first_s`, doubled each time, up to `longest_s`.

    Without a failure there is none. Any count and any finite `first_s` will do; a float cannot hold 2.0 ** 1024.
    """
    return min(first_s * 2.0 ** min(failures - 1, _DOUBLINGS_MAX), longest_s) if failures > 0 else 0.0


def pause_s(failures: int, *, first_s: float, longest_s: float) -> float:
    """A pause between half of that and all of it, so that clients that failed together do not return together."""
    ceiling = longest_pause_s(failures, first_s=first_s, longest_s=longest_s)
    return JITTER.uniform(ceiling / 2, ceiling)


def wall_us() -> int:
    """Microseconds since the Unix epoch by this machine's clock."""
    return time.time_ns() // 1000


async def wait_until_set(event: asyncio.Event, *, within_s: float) -> bool:
    """Waits for the event for a limited time, and returns whether it is set.

    Cancellation ends the wait whatever else happens. Until Python 3.12 `asyncio.wait_for` forgets it when the event is
    set in the same tick of the loop, and a loop that was to end goes on for ever.
    """
    try:
        async with asyncio.timeout(within_s):
            return await event.wait()
    except TimeoutError:
        return event.is_set()
