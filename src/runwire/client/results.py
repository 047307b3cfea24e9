"""Answers of the service, as values. Times are epoch milliseconds."""

from __future__ import annotations

from typing import Any

import msgspec

from runwire.model.content import Artifact
from runwire.model.event import Event
from runwire.model.run import RunState


class StartedRun(msgspec.Struct, frozen=True, rename="camel"):
    """A stored run. External orchestrators need `fence` for every append."""

    run_id: str
    fence: int | None = None


class ReceivedSignal(msgspec.Struct, frozen=True, rename="camel"):
    """A signal for an external run. `n` counts the run's signals: as `signals_taken` it acknowledges those up to it.

    `withheld`: it has data, and these credentials lack the scope `content:read`.
    """

    n: int
    name: str
    data: Any = None
    id: str | None = None
    withheld: bool = False


class AcceptedSignal(msgspec.Struct, frozen=True):
    """A signal that a run may wait for. `schema` is the JSON Schema of its data, None where any fits."""

    name: str
    schema: dict[str, Any] | None = None


class StoredSignal(msgspec.Struct, frozen=True, rename="camel"):
    """A signal that its run has not taken. `sent_at` is in epoch milliseconds.

    `withheld`: it has data that is not shown here, for example because the scope `content:read` is missing.
    """

    n: int
    name: str
    sent_at: int
    data: Any = None
    id: str | None = None
    withheld: bool = False


class RunSignals(msgspec.Struct, frozen=True, rename="camel"):
    """The signals of a run: those for which it waits now, those that it accepts, and those that it has not taken.

    `waiting_until` is when its timer is due. With `accepts_others` it accepts every name.
    """

    run_id: str
    waiting_for: tuple[str, ...]
    waiting_until: int | None
    accepts: tuple[AcceptedSignal, ...]
    accepts_others: bool
    not_taken: tuple[StoredSignal, ...]


class PartInfo(msgspec.Struct, frozen=True, rename="camel"):
    """A part of a run. `state` is open, sealed or abandoned; `size` is in bytes; `attempt` counts from 1."""

    part: int
    name: str
    media_type: str
    attempt: int
    state: str
    size: int


class PartList(msgspec.Struct, frozen=True):
    """The parts of a run by number."""

    parts: tuple[PartInfo, ...]


class Appended(msgspec.Struct, frozen=True, rename="camel"):
    """A stored batch. `seqs` is empty for a heartbeat; `cancel_requested` asks the orchestrator to end the run.

    `signals` are those of the run that it has not acknowledged yet, oldest first.
    """

    seqs: tuple[int, ...]
    last_seq: int
    cancel_requested: bool = False
    signals: tuple[ReceivedSignal, ...] = ()


class RunView(msgspec.Struct, frozen=True, rename="camel"):
    """A run as the service sees it."""

    run_id: str
    agent: str
    """The name of the run's agent, or the name that an external orchestrator gave."""
    state: RunState
    last_seq: int
    """The seq of the newest event in the log; 0 for an empty log."""
    published_seq: int
    """The last seq that streams can show."""
    external: bool = False
    """An external orchestrator appends the run's events."""
    attempt: int = 0
    """Claims by workers, except those after a wait."""
    created_at: int = 0
    """When the start was stored, in epoch milliseconds, like all times here."""
    started_at: int | None = None
    finished_at: int | None = None
    outcome: RunState | None = None
    """The terminal state, once there is one."""
    error_code: str | None = None
    """The bounded code of the failure of a failed run."""
    waiting_for: str | None = None
    """The signals that a waiting run waits for, separated by blanks; None when it only waits for a time."""
    waiting_since: int | None = None
    waiting_until: int | None = None
    """When its timer is due."""
    cancel_requested: bool = False
    """Somebody cancelled the run while it was open."""
    trace_id: str | None = None
    """The trace with the run's spans; None for a run that is not sampled."""
    session: str | None = None
    """The session that the start gave."""
    labels: dict[str, str] = {}
    """The labels that the start gave."""


class StreamTicket(msgspec.Struct, frozen=True, rename="camel"):
    """Opens the stream of one run as `?ticket=` of its URL, until `expires_at` (epoch milliseconds)."""

    ticket: str
    expires_at: int


class RunPage(msgspec.Struct, frozen=True, rename="camel"):
    """Runs, the latest first; `next_cursor` is None on the last page. A page may be empty and not the last."""

    runs: tuple[RunView, ...]
    next_cursor: str | None = None


class ArtifactList(msgspec.Struct, frozen=True, rename="camel"):
    """The artifacts of a run, in order."""

    artifacts: tuple[Artifact, ...]


class EventPage(msgspec.Struct, frozen=True, rename="camel"):
    """Stored and published events, in order; `has_more`: there are more after the last of them."""

    events: tuple[Event, ...]
    has_more: bool


class StoredState(msgspec.Struct, frozen=True, rename="camel"):
    """A run's state at its last checkpoint, and the `seq` of that checkpoint. Before the first, the state that the run
    begins with, and 0. None for an external run.
    """

    run_id: str
    seq: int = 0
    state: Any = None


class NextStep(msgspec.Struct, frozen=True, rename="camel"):
    """A safe next step. `command`, if any, is complete and can be pasted into a shell."""

    text: str
    command: str | None = None


class Diagnosis(msgspec.Struct, frozen=True, rename="camel"):
    """The stage at which a run is stuck, if any; see docs/runbooks/run-diagnostics.md. `evidence` is in seconds."""

    run_id: str
    stage: str
    healthy: bool
    summary: str
    evidence: dict[str, Any]
    next_step: NextStep


class StreamEnd(msgspec.Struct, frozen=True, rename="camel"):
    """The end of a run, sent by its stream after the terminal event."""

    run_id: str
    state: RunState
    last_seq: int
