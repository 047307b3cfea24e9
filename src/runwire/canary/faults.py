"""The steps of a round, and the reasons for which one fails. Both are labels of metrics, so both are few."""

from __future__ import annotations

from enum import StrEnum

from runwire.client import ServerProblem, ServerUnreachable
from runwire.errors import DECLARED, RunwireError


class Step(StrEnum):
    """The steps of a round. Each is timed from the call that begins it."""

    START = "start"
    """From the start call to its answer."""
    FIRST_EVENT = "first_event"
    """From the start call to the first event of the stream."""
    WAITING = "waiting"
    """From the start call to the end of the node that waits: a worker has the run, and it waits for its signal."""
    SIGNAL = "signal"
    """From the signal call to the next event."""
    END = "end"
    """From the signal call to the end of the stream."""
    CANCEL = "cancel"
    """From the cancel call to the end of the stream."""
    LOG = "log"
    """The stored events, read after the end and compared with those of the stream, and the same start once more."""


class Reason(StrEnum):
    """The reasons for which a step fails."""

    UNREACHABLE = "unreachable"
    """No connection, or no answer."""
    TIMEOUT = "timeout"
    """The step took longer than the canary waits."""
    DENIED = "denied"
    """The credential is not accepted, or lacks a scope."""
    UNAVAILABLE = "unavailable"
    """The service asked to try later, until the canary gave up: HTTP 429, 502, 503 or 504."""
    REFUSED = "refused"
    """The service refused the request for another reason."""
    BROKEN = "broken"
    """An answer or a stream that is not one of a healthy service."""
    REPEATED = "repeated"
    """An event came twice on one connection."""
    SKIPPED = "skipped"
    """The stream left an event out."""
    WRONG_END = "wrong_end"
    """The run ended in another way than it should have."""
    LOG_DIFFERS = "log_differs"
    """The stored events are not those that were streamed."""
    STARTED_TWICE = "started_twice"
    """The same start, sent twice, became two runs."""


class StepFailed(Exception):
    """A step failed. `said` is one sentence for a person."""

    def __init__(self, step: Step, reason: Reason, said: str) -> None:
        super().__init__(f"{step}: {reason}: {said}")
        self.step = step
        self.reason = reason
        self.said = said


def reason_of(error: RunwireError) -> Reason:
    """The reason that an error of a call stands for."""
    if isinstance(error, ServerUnreachable):
        return Reason.UNREACHABLE
    declared = DECLARED.get(error.code)
    status = error.status if isinstance(error, ServerProblem) else declared.kind.status if declared is not None else 500
    if status in (401, 403):
        return Reason.DENIED
    if status in (429, 502, 503, 504):
        return Reason.UNAVAILABLE
    return Reason.REFUSED if 400 <= status < 500 else Reason.BROKEN
