"""PostgreSQL's clock, as this process reads it. Lags compare times of two machines, so one clock gives both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from runwire.clock import monotonic, wall_us
from runwire.db.database import Database
from runwire.db.sql import load_sql
from runwire.duties import Duty

_SQL: Final = load_sql("runwire.db", "clock.sql")

PERIOD_S: Final = 10.0
AT_FIRST: Final = 3
"""Readings of a process that starts: the first one may take long."""
LOOK_S: Final = 0.5
"""How often the machine's own clock is looked at: a reading from before it was set says nothing about it any more."""
SET_US: Final = 50_000
DRIFT: Final = 0.0005
"""Seconds by which two clocks may part in a second: NTP slews one by at most 500 ppm."""


def monotonic_us() -> int:
    return time.monotonic_ns() // 1000


@dataclass(frozen=True, slots=True)
class Reading:
    """PostgreSQL's clock is `offset_us` ahead of this machine's monotonic one, give or take `bound_us`, as of `at_us`.

    PostgreSQL reads its clock between the question and the answer, so the middle of the two is wrong by at most half of
    the round trip.
    """

    offset_us: int
    bound_us: int
    at_us: int

    @classmethod
    def of(cls, *, asked_us: int, server_us: int, answered_us: int) -> Self:
        half = (answered_us - asked_us + 1) // 2
        return cls(server_us - asked_us - half, half, answered_us)

    def bound_at(self, now_us: int) -> int:
        """The bound, which grows with the age of the reading."""
        return self.bound_us + round(max(now_us - self.at_us, 0) * DRIFT)

    def succeeds(self, other: Reading) -> bool:
        """Whether this reading says more than an earlier one: it is more exact, or shows that a clock was set."""
        bound_us = other.bound_at(self.at_us)
        return self.bound_us <= bound_us or abs(self.offset_us - other.offset_us) > self.bound_us + bound_us


class ServerClock:
    """`now_us` is an addition. `measure` is the step that keeps its offset right, `run` the loop.

    Until the first reading PostgreSQL's clock is taken for this machine's.
    """

    def __init__(
        self,
        database: Database,
        *,
        monotonic_us: Callable[[], int] = monotonic_us,
        wall_us: Callable[[], int] = wall_us,
    ) -> None:
        self._database = database
        self._monotonic_us = monotonic_us
        self._wall_us = wall_us
        self._reading: Reading | None = None
        self._offset_us = self._wall_ahead_us = wall_us() - monotonic_us()

    @property
    def known(self) -> bool:
        """Whether PostgreSQL's clock has been read."""
        return self._reading is not None

    def now_us(self) -> int:
        """Microseconds since the Unix epoch by PostgreSQL's clock, whatever this machine's says."""
        return self._monotonic_us() + self._offset_us

    @property
    def ahead_s(self) -> float:
        """Seconds by which this machine's clock is ahead of PostgreSQL's, below 0 when it is behind."""
        return (self._wall_us() - self.now_us()) / 1e6

    @property
    def bound_s(self) -> float:
        """Seconds by which `now_us` and `ahead_s` may be wrong."""
        return 0.0 if self._reading is None else self._reading.bound_at(self._monotonic_us()) / 1e6

    def learn(self, reading: Reading) -> None:
        """Takes a reading, unless the last one says more."""
        if self._reading is None or reading.succeeds(self._reading):
            self._reading = reading
            self._offset_us = reading.offset_us

    async def measure(self) -> None:
        """One step: reads PostgreSQL's clock. Raises DatabaseUnavailable."""
        asked_us = self._monotonic_us()
        server_us: int = await self._database.fetchval(_SQL["now"])
        self.learn(Reading.of(asked_us=asked_us, server_us=server_us, answered_us=self._monotonic_us()))

    def look(self) -> bool:
        """Whether this machine's clock was set since the last look. PostgreSQL's may be the same one."""
        ahead_us = self._wall_us() - self._monotonic_us()
        before_us, self._wall_ahead_us = self._wall_ahead_us, ahead_us
        return abs(ahead_us - before_us) > SET_US

    async def run(self) -> None:
        attempts = self._database.attempts(Duty.READ_CLOCK)
        due_at = 0.0
        while True:
            if self.look() or monotonic() >= due_at:
                with attempts:
                    await self.measure()
                due_at = monotonic() + (attempts.pause_s or PERIOD_S)
            await asyncio.sleep(LOOK_S)
