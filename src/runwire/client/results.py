"""What the service answers, as values. Times are epoch milliseconds."""

from __future__ import annotations

from typing import Any

import msgspec

from runwire.model.event import Event
from runwire.model.run import RunState


class StartedRun(msgspec.Struct, frozen=True, rename="camel"):
    """A run that is durable. `fence` is for external orchestrators: every append needs it."""

    run_id: str
    fence: int | None = None


class Appended(msgspec.Struct, frozen=True, rename="camel"):
    """A stored batch. `seqs` is empty for a heartbeat; `cancel_requested` asks the orchestrator to come to an end."""

    seqs: tuple[int, ...]
    last_seq: int
    cancel_requested: bool = False


class RunView(msgspec.Struct, frozen=True, rename="camel"):
    """A run as the service sees it. `published_seq` is how far streams may see; `attempt` counts claims by workers.

    `trace_id` is where its spans are, None for a run that is not sampled.
    """

    run_id: str
    agent: str
    state: RunState
    last_seq: int
    published_seq: int
    external: bool = False
    attempt: int = 0
    created_at: int = 0
    started_at: int | None = None
    finished_at: int | None = None
    outcome: RunState | None = None
    error_code: str | None = None
    waiting_for: str | None = None
    cancel_requested: bool = False
    trace_id: str | None = None


class RunPage(msgspec.Struct, frozen=True, rename="camel"):
    """Runs, newest first; `next_cursor` is None on the last page."""

    runs: tuple[RunView, ...]
    next_cursor: str | None = None


class EventPage(msgspec.Struct, frozen=True, rename="camel"):
    """Stored and published events, in order; `has_more` says there are some after the last of them."""

    events: tuple[Event, ...]
    has_more: bool


class StoredState(msgspec.Struct, frozen=True, rename="camel"):
    """A run's state as of its last checkpoint, which was at `seq`; None and 0 before the first."""

    run_id: str
    seq: int = 0
    state: Any = None


class NextStep(msgspec.Struct, frozen=True, rename="camel"):
    """What is safe to do next; `command` can be run as it stands."""

    text: str
    command: str | None = None


class Diagnosis(msgspec.Struct, frozen=True, rename="camel"):
    """Where a run is stuck, if it is: see docs/runbooks/run-diagnostics.md. Durations in `evidence` are seconds."""

    run_id: str
    stage: str
    healthy: bool
    summary: str
    evidence: dict[str, Any]
    next_step: NextStep


class StreamEnd(msgspec.Struct, frozen=True, rename="camel"):
    """How a run ended, as its stream says after the terminal event."""

    run_id: str
    state: RunState
    last_seq: int
