"""Estimates how many runs are open, to refuse a start before it costs anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from runwire.clock import monotonic
from runwire.db import Database, load_sql
from runwire.errors import Overloaded

_SQL = load_sql("runwire.orchestrate", "orchestrate.sql")

RETRY_AFTER_S: Final = 5
RECOUNT_S: Final = 1.0


class OpenRuns:
    """The count of the database, at most a second old, and the starts of this process since.

    Of several processes each may let through what starts within that second: the limit is a dam, not a quota.
    """

    def __init__(self, database: Database, *, at_most: int, now: Callable[[], float] = monotonic) -> None:
        """`at_most` 0 is no limit, and costs nothing."""
        self._database = database
        self._at_most = at_most
        self._now = now
        self._open = 0
        self._counted_at = float("-inf")

    async def admit(self) -> None:
        """Makes room for one more. Raises Overloaded (`too_many_runs`) or DatabaseUnavailable."""
        if not self._at_most:
            return
        if self._now() - self._counted_at >= RECOUNT_S:
            self._counted_at = self._now()
            self._open = await self._database.fetchval(_SQL["open_runs"], self._at_most)
        if self._open >= self._at_most:
            raise Overloaded(
                f"{self._at_most} runs are open, which is the limit.",
                code="too_many_runs",
                retry_after_s=RETRY_AFTER_S,
            )
        self._open += 1
