"""Waiting: for one of several signals, for a time, and the signal that a run went on with."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from runwire.errors import NodeFailed
from runwire.model.event import NAME_PATTERN, is_name

WAIT_MAX_S: Final = 366 * 86_400.0
"""Seconds that a Wait or a Sleep may last at most. `until` may name any time."""
NAMES_MAX: Final = 32
"""Names that one Wait may be for."""


@dataclass(frozen=True, slots=True)
class Signal:
    """The signal with which a run goes on. `data` is the signal's JSON, converted to the Wait's `schema` if it has one.

    `data` is None for a signal without data. `id` is the sender's, or None.
    """

    name: str
    data: Any = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """A node returns it to wait: the run rests in `waiting`, without a worker, until a signal that it names arrives.

    It names one signal, or several with `any_of`. Then the run goes on at `then`, where `ctx.signal` is the signal.
    After `within_s` seconds without one it goes on at `on_timeout` instead. A signal's data must fit `schema`: a
    dataclass, a msgspec.Struct, a pydantic model or any other type that msgspec decodes.

    Raises NodeFailed (`bad_wait`) for names that do not match `NAME_PATTERN`, and times that are no times.
    """

    signal: str | None = None
    then: str = ""
    any_of: tuple[str, ...] = ()
    within_s: float | None = None
    on_timeout: str | None = None
    schema: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.any_of, tuple):
            given: Any = self.any_of
            if isinstance(given, str) or not isinstance(given, Iterable):
                raise _bad("a Wait's any_of must be several names")
            object.__setattr__(self, "any_of", tuple(given))
        if (self.signal is None) == (not self.any_of):
            raise _bad("a Wait is for one signal, or for any_of several")
        if len(self.names) > NAMES_MAX or not all(map(is_name, self.names)):
            raise _bad(f"a Wait has at most {NAMES_MAX} signals, and their names must match {NAME_PATTERN}")
        if (self.within_s is None) != (self.on_timeout is None):
            raise _bad("a Wait has both within_s and on_timeout, or none of them")
        if self.within_s is not None:
            _check_seconds(self.within_s, "within_s")

    @property
    def names(self) -> tuple[str, ...]:
        """Every signal that lets the run go on."""
        return self.any_of if self.signal is None else (self.signal,)

    @property
    def targets(self) -> tuple[str, ...]:
        """Every node at which the run may go on."""
        return (self.then,) if self.on_timeout is None else (self.then, self.on_timeout)


@dataclass(frozen=True, slots=True)
class Sleep:
    """A node returns it to rest: the run goes on at `then` after `for_s` seconds, or at the time `until`.

    The time is that of the database, whatever becomes of the worker meanwhile. One that has passed is due at once.
    Raises NodeFailed (`bad_wait`) for times that are no times.
    """

    then: str
    for_s: float | None = None
    until: dt.datetime | None = None

    def __post_init__(self) -> None:
        if (self.for_s is None) == (self.until is None):
            raise _bad("a Sleep has for_s or until")
        if self.for_s is not None:
            _check_seconds(self.for_s, "for_s")
        if self.until is not None and (not isinstance(self.until, dt.datetime) or self.until.utcoffset() is None):
            raise _bad("a Sleep's until must be a datetime with a time zone")

    @property
    def targets(self) -> tuple[str, ...]:
        """The node at which the run goes on."""
        return (self.then,)


def _check_seconds(said: object, what: str) -> None:
    if type(said) not in (int, float) or not math.isfinite(said) or not 0 <= said <= WAIT_MAX_S:  # type: ignore[arg-type, operator]
        raise _bad(f"{what} must be seconds, from 0 to {WAIT_MAX_S:.0f}")


def _bad(why: str) -> NodeFailed:
    return NodeFailed("bad_wait", why, retry=False)
