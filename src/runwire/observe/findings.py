"""Findings of a diagnosis: stages, safe next steps, and the seconds beyond which something is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

import msgspec

from runwire.thresholds import (
    LOCK_WAIT_S,
    NODE_GRACE_S,
    PUBLISHER_DEAD_S,
    PUBLISHER_SILENT_S,
    UNCLAIMED_S,
    UNPUBLISHED_S,
    UNPUBLISHED_YET_S,
)


@dataclass(frozen=True, slots=True)
class DiagnosisThresholds:
    """Seconds beyond which something is wrong, as in alerts/thresholds.yaml; whatever ends by itself ends sooner."""

    unclaimed_s: float = UNCLAIMED_S
    unpublished_s: float = UNPUBLISHED_S
    alive_s: float = PUBLISHER_DEAD_S
    grace_s: float = NODE_GRACE_S
    lock_s: float = LOCK_WAIT_S
    unproven_s: float = UNPUBLISHED_YET_S
    silent_s: float = PUBLISHER_SILENT_S


DEFAULT_THRESHOLDS: Final = DiagnosisThresholds()


class Stage(StrEnum):
    """Where a run is stuck. `client_side` and `failed`: the pipeline has done its part. `waiting`: it rests. `unknown`:
    nothing is known to be wrong, and nothing proves that all is well.
    """

    NEVER_CLAIMED = "never_claimed"
    TIMER_OVERDUE = "timer_overdue"
    LEASE_LOST = "lease_lost"
    NODE_HUNG = "node_hung"
    APPEND_FAILING = "append_failing"
    PARTS_STUCK = "parts_stuck"
    OUTBOX_STUCK = "outbox_stuck"
    BUS_DOWN = "bus_down"
    API_DEAF = "api_deaf"
    WAITING = "waiting"
    FAILED = "failed"
    CLIENT_SIDE = "client_side"
    UNKNOWN = "unknown"


HEALTHY: Final = frozenset({Stage.CLIENT_SIDE, Stage.FAILED, Stage.WAITING})
"""Stages in which the pipeline has provably done its part."""


class NextStep(msgspec.Struct, frozen=True, rename="camel"):
    """A safe next step; `command` can be run as it stands, None where there is nothing to run."""

    text: str
    command: str | None


Finding: TypeAlias = tuple[Stage, str, NextStep]
"""The stage, a sentence that says why, and what to do."""


def end_session(pid: int) -> NextStep:
    end = f"psql -c 'SELECT pg_terminate_backend({pid})'"
    return NextStep("End that session if nobody needs it.", end)
