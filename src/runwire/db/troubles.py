"""The troubles of this process: logged when they begin, shown by readiness and metrics while they last.

A duty is in trouble from its first failure until it went well again. `Attempts` are the steps of one loop: they wait
out errors of the database, so that no loop ends because of them. A defect of ours reaches the loop's runner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final

import structlog

from runwire.clock import monotonic, pause_s
from runwire.duties import Duty
from runwire.errors import DatabaseFailed

_FIRST_S: Final = 0.05
_LONGEST_S: Final = 5.0
_TOLD_EVERY_S: Final = 5.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Trouble:
    """`about` names one of several, such as a connection. `why` never quotes stored or sent values."""

    duty: Duty
    about: str
    why: str
    since: float

    @property
    def name(self) -> str:
        return f"{self.duty.value} {self.about}".rstrip()


class Troubles:
    """The troubles of a process; usable from any thread.

    `on_change` hears how many there are of an owner of duties, whenever one begins or ends.
    """

    def __init__(self, on_change: Callable[[str, int], None] = lambda _owner, _count: None) -> None:
        self._on_change = on_change
        self._current: dict[tuple[Duty, str], Trouble] = {}

    def begin(self, duty: Duty, why: str, *, about: str = "") -> bool:
        """Returns whether the trouble is new. A repeated trouble keeps its start."""
        known = self._current.get((duty, about))
        self._current[duty, about] = Trouble(duty, about, why, monotonic() if known is None else known.since)
        if known is None:
            self._changed(duty)
        return known is None

    def end(self, duty: Duty, *, about: str = "") -> bool:
        """Whether there was one."""
        if not self._current:
            return False
        ended = self._current.pop((duty, about), None) is not None
        if ended:
            self._changed(duty)
        return ended

    def _changed(self, duty: Duty) -> None:
        owner = duty.owner
        self._on_change(owner, sum(trouble.duty.owner == owner for trouble in tuple(self._current.values())))

    def lasting(self, at_least_s: float) -> list[Trouble]:
        """The troubles of at least that age, oldest first."""
        until = monotonic() - at_least_s
        return [trouble for trouble in tuple(self._current.values()) if trouble.since <= until]


class Attempts:
    """`with attempts: await step()` for each step of a loop, then a pause of `pause_s`, which is 0 after success."""

    def __init__(
        self,
        duty: Duty,
        troubles: Troubles,
        *,
        first_s: float = _FIRST_S,
        longest_s: float = _LONGEST_S,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        """`facts` go with every line of the log."""
        self.failures = 0
        """In a row."""
        self._duty = duty
        self._troubles = troubles
        self._first_s = first_s
        self._longest_s = longest_s
        self._facts = facts or {}
        self._told_at = float("-inf")

    @property
    def pause_s(self) -> float:
        return pause_s(self.failures, first_s=self._first_s, longest_s=self._longest_s)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        if error is None:
            self.succeeded()
            return False
        if not isinstance(error, DatabaseFailed):
            return False
        self.failed(error)
        return True

    def succeeded(self) -> None:
        if self.failures:
            self.failures = 0
            if self._troubles.end(self._duty):
                _log.info("database_recovered", doing=self._duty.value)

    def failed(self, error: DatabaseFailed) -> None:
        self.failures += 1
        self._troubles.begin(self._duty, str(error))
        if monotonic() - self._told_at < _TOLD_EVERY_S and self.failures & (self.failures - 1):
            return  # the 1st, 2nd, 4th, ... is told, and one every few seconds
        self._told_at = monotonic()
        _log.warning(
            "database_unavailable",
            doing=self._duty.value,
            code=error.code,
            why=str(error),
            failures=self.failures,
            **self._facts,
        )
