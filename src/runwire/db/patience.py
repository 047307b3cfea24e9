"""Waits out a short outage of the database, for callers whose work would be lost with an error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from runwire.clock import monotonic, pause_s, wait_until_set
from runwire.errors import DatabaseUnavailable

T = TypeVar("T")

_PAUSE_FIRST_S: Final = 0.05
_PAUSE_MAX_S: Final = 2.0


class Patience:
    """Repeats a piece of work while the database is away, with growing pauses, for `at_most_s` seconds.

    Once `ended` is set, nothing is repeated. Cancelling the caller ends the wait, as any.
    """

    def __init__(self, at_most_s: float, *, ended: asyncio.Event | None = None) -> None:
        self._at_most_s = at_most_s
        self._ended = asyncio.Event() if ended is None else ended

    async def through(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of the work, which may run several times. Raises the last DatabaseUnavailable, and at once
        everything else that the work raises.
        """
        failures = 0
        until = monotonic() + self._at_most_s
        while True:
            try:
                return await work()
            except DatabaseUnavailable:
                failures += 1
                pause = pause_s(failures, first_s=_PAUSE_FIRST_S, longest_s=_PAUSE_MAX_S)
                if self._ended.is_set() or monotonic() >= until or await wait_until_set(self._ended, within_s=pause):
                    raise


AT_ONCE: Final = Patience(0.0)
"""The patience of a caller who would rather hear of the outage: none."""
