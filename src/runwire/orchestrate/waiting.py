"""A wait that a node returned, as the log stores it."""

from __future__ import annotations

from runwire.append import Change
from runwire.model.graph import Sleep, Wait
from runwire.model.run import RunState


def waiting_of(exit_: Wait | Sleep) -> tuple[Change, str | None]:
    """The change of the run's state, and the node at which it goes on when its timer is due."""
    if isinstance(exit_, Wait):
        due = None if exit_.within_s is None else _from_now(exit_.within_s)
        return Change(RunState.WAITING, waiting_for=" ".join(exit_.names), due=due), exit_.on_timeout
    due = f"{exit_.until.timestamp():.6f}" if exit_.until is not None else _from_now(exit_.for_s or 0.0)
    return Change(RunState.WAITING, waiting_for="", due=due), exit_.then


def _from_now(seconds: float) -> str:
    return f"+{seconds:.6f}"
