"""When a worker must look for timers that are due. Due times are on the database's clock; the rest until then is not.

A timer is a column of its waiting run, with an index; `claim` in orchestrate.sql fires it, with the run's row locked.
Here is only the look ahead: how long a worker may rest. The database says how many seconds are left, and a monotonic
clock counts them, so a jump of this machine's clock changes nothing.
"""

from __future__ import annotations

from typing import Final

from runwire.clock import JITTER, monotonic
from runwire.db import Database, load_sql

_SQL: Final = load_sql("runwire.orchestrate", "orchestrate.sql")
LOOK_S: Final = 1.0
"""Seconds between two looks of a worker, since others set timers, too."""
TOGETHER_S: Final = 0.05
"""Seconds within which timers are claimed at once."""


class Timers:
    """Knows until when no timer is due. It asks the database once in `LOOK_S`, when one is due, and after `changed`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looked_at = float("-inf")
        self._due_at = float("inf")

    def changed(self) -> None:
        """A run of this worker has begun to wait until a time."""
        self._looked_at = float("-inf")

    async def rest_s(self, agents: list[str], *, at_most_s: float) -> float:
        """Seconds that the worker may rest before it claims again. Call it after a claim. Raises DatabaseFailed."""
        now = monotonic()
        if now >= min(self._due_at, self._looked_at + LOOK_S):
            row = await self._database.fetchrow(_SQL["next_timer"], agents)
            left_s = None if row is None else row["left_s"]
            self._looked_at = now = monotonic()
            self._due_at = float("inf") if left_s is None else now + left_s
        left_s = self._due_at - now
        # A little later, so that one claim takes several; not the same for each worker, so that one of them does.
        # A timer that is overdue after a claim is out of reach, with its row locked: the longer, the longer the rest.
        return min(abs(left_s) + JITTER.uniform(0.2, 1.0) * TOGETHER_S, at_most_s)
