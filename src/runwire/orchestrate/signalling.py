"""Signals as callers send them: checked against the waits of the run's agent, then stored under the run's row lock."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from runwire.db import ConstraintViolated, Statements, load_sql
from runwire.errors import InvalidRequest, SignalConflict, SignalNotAwaited, TooManySignals
from runwire.model.graph import Agents
from runwire.model.state import StateType
from runwire.model.state_shape import deep
from runwire.orchestrate.run_view import RunView

_SQL: Final = load_sql("runwire.orchestrate", "orchestrate.sql")
DATA_MAX_BYTES: Final = 64 * 1024
"""Bytes of JSON that a signal may carry."""
DEPTH_MAX: Final = 100
_REFUSED: Final[dict[str, type[SignalConflict | TooManySignals]]] = {
    "run_signals_id": SignalConflict,
    "run_signals_bounded": TooManySignals,
}


@dataclass(frozen=True, slots=True)
class SentSignal:
    """A signal as its sender means it. `data` is JSON, or None for none; `id` makes a repeat harmless."""

    name: str
    data: bytes | None = None
    id: str | None = None

    def digest(self) -> bytes:
        """Of name and data, however the data's JSON is written."""
        data = None if self.data is None else msgspec.json.decode(self.data)
        return hashlib.sha256(msgspec.json.encode([self.name, self.data is not None, data], order="sorted")).digest()

    def check(self) -> None:
        """Raises InvalidRequest: `signal_too_large`, or `malformed_json`."""
        if self.data is None:
            return
        if len(self.data) > DATA_MAX_BYTES:
            raise InvalidRequest(f"data has more than {DATA_MAX_BYTES} bytes of JSON", code="signal_too_large")
        try:
            data: Any = msgspec.json.decode(self.data)
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            raise InvalidRequest("data is not JSON", code="malformed_json") from None
        if deep(data, limit=DEPTH_MAX):
            raise InvalidRequest(f"data is nested more than {DEPTH_MAX} levels")


def check_awaited(agents: Agents, run: RunView, sent: SentSignal) -> None:
    """Passes a signal that the run may wait for, with data that fits.

    Raises SignalNotAwaited, or InvalidRequest (`invalid_signal`). Every signal is one for an external run, whose
    orchestrator is elsewhere, and for an agent that this process does not know.
    """
    agent = None if run.external else agents.get(run.agent)
    if agent is None:
        return
    if not agent.may_wait_for(sent.name) and sent.name not in (run.waiting_for or "").split():
        raise SignalNotAwaited(run.run_id)
    schema = agent.schema_of(sent.name)
    if schema is not None:
        schema.check_signal(sent.data or b"null")


@dataclass(frozen=True, slots=True)
class StoredSignal:
    """A signal that its run has not taken. `data` is JSON; None where there is none, or where it is not shown."""

    n: int
    name: str
    id: str | None
    sent_at: int
    has_data: bool
    data: bytes | None


@dataclass(frozen=True, slots=True)
class SignalsOfRun:
    """The signals that a run accepts, by name with what converts their data, and those that wait for it.

    With `others` it accepts any other name, too: nobody here knows for what its nodes may wait.
    """

    run: RunView
    accepted: Mapping[str, StateType[Any] | None]
    others: bool
    stored: Sequence[StoredSignal]


def accepted_by(agents: Agents, run: RunView) -> tuple[Mapping[str, StateType[Any] | None], bool]:
    """The signals that `check_awaited` lets pass, and whether there are others. None for a run that is over."""
    if run.state.terminal:
        return {}, False
    agent = None if run.external else agents.get(run.agent)
    if agent is None:
        return dict.fromkeys((run.waiting_for or "").split()), True
    named = dict.fromkeys((run.waiting_for or "").split())
    return {**named, **agent.signals}, agent.may_wait_for_others


async def not_taken(database: Statements, run_id: str, *, with_data: bool) -> list[StoredSignal]:
    """The signals that the run has not taken, oldest first, with 256 KiB of their data at most."""
    rows = await database.fetch(_SQL["signals_not_taken"], run_id, with_data)
    return [
        StoredSignal(row["n"], row["signal"], row["signal_id"], row["sent_at"], row["has_data"], row["data"])
        for row in rows
    ]


async def store(database: Statements, run_id: str, sent: SentSignal) -> bool:
    """Whether the signal is stored, now or by an earlier request with its id; False for a run that is over.

    Raises SignalConflict or TooManySignals.
    """
    digest = None if sent.id is None else sent.digest()
    try:
        stored = await database.fetchrow(_SQL["signal"], run_id, sent.name, sent.id, sent.data, digest)
    except ConstraintViolated as error:
        if error.constraint not in _REFUSED:
            raise
        raise _REFUSED[error.constraint](run_id) from None
    if stored is None and sent.id is not None:
        stored = await database.fetchrow(_SQL["signal_known"], run_id, sent.id)
    return stored is not None
