"""Runs: their identity, their states and which transitions are legal."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

import uuid_utils

from runwire.errors import InvalidRequest

RUN_ID_PATTERN: Final = r"^[A-Za-z0-9._:-]{1,128}$"
_RUN_ID = re.compile(RUN_ID_PATTERN)

DEFAULT_TENANT: Final = "default"
"""The tenant of runs that name none."""


class RunState(StrEnum):
    """The states of a run. A run never leaves `finished`, `failed` or `cancelled`."""

    PENDING = "pending"
    STARTED = "started"
    WAITING = "waiting"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether a run never leaves this state."""
        return self in TERMINAL


TERMINAL: Final = frozenset({RunState.FINISHED, RunState.FAILED, RunState.CANCELLED})
"""States a run never leaves. A run in one of them has its RunFinished event, and it is last."""


def new_run_id() -> str:
    """A UUIDv7 (RFC 9562): unique without coordination, and sorts by the time it was minted."""
    return str(uuid_utils.uuid7())


def checked_run_id(run_id: str) -> str:
    """The id itself. Raises InvalidRequest unless it is 1 to 128 of `A-Za-z0-9._:-`."""
    if not _RUN_ID.fullmatch(run_id) or run_id in (".", ".."):
        raise InvalidRequest("runId must be 1 to 128 of A-Za-z0-9._:-", code="invalid_run_id")
    return run_id
