"""Runs as callers see them: one, a page of a list, a run's state."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import msgspec

from runwire.db import Row, Statements, load_sql
from runwire.errors import InvalidRequest, RunNotFound
from runwire.model.run import DEFAULT_TENANT, RunState, checked_run_id
from runwire.telemetry.traceparent import sampled_trace_id

_SQL = load_sql("runwire.orchestrate", "orchestrate.sql")
_NEWEST = (2**53 - 1, "")
"""The cursor of a first page: a time later than any run's creation."""


class RunView(msgspec.Struct, frozen=True, rename="camel"):
    """A run as callers see it. Times are epoch milliseconds; `trace_id` is of sampled runs only."""

    run_id: str
    agent: str
    state: RunState
    external: bool
    last_seq: int
    published_seq: int
    attempt: int
    created_at: int
    started_at: int | None
    finished_at: int | None
    outcome: RunState | None
    error_code: str | None
    waiting_for: str | None
    cancel_requested: bool
    trace_id: str | None


class RunPage(msgspec.Struct, frozen=True, rename="camel"):
    runs: list[RunView]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class StoredState:
    """A run's state as of its last checkpoint: `state` is JSON, or None before the first."""

    run_id: str
    seq: int
    state: bytes | None


class RunReader:
    """Reads runs. Reading changes nothing."""

    def __init__(self, database: Statements, *, tenant: str | None = None, read_timeout_s: float | None = None) -> None:
        """`database` sees the runs of `tenant`, or all for None. `read_timeout_s` limits the read of one page."""
        self._database = database
        self._tenant = tenant
        self._read_timeout_s = read_timeout_s

    async def view(self, run_id: str) -> RunView:
        """Raises RunNotFound."""
        row = await self._database.fetchrow(_SQL["view"], run_id)
        if row is None:
            raise RunNotFound(run_id)
        return _view(row)

    async def page(
        self,
        *,
        state: RunState | None = None,
        agent: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
        tenant: str = DEFAULT_TENANT,
    ) -> RunPage:
        """Runs, newest first, at most `limit`. Raises InvalidRequest (`invalid_cursor`) and ReadTimedOut."""
        before_us, before_id = _NEWEST if cursor is None else decoded_cursor(cursor)
        rows = await self._database.fetch(
            _SQL["page"],
            self._tenant or tenant,
            state and state.value,
            agent,
            before_us,
            before_id,
            limit + 1,
            within_s=self._read_timeout_s,
        )
        more = len(rows) > limit
        rows = rows[:limit]
        following = f"{rows[-1]['created_us']} {rows[-1]['run_id']}" if more else None
        return RunPage(
            [_view(row) for row in rows],
            None if following is None else base64.urlsafe_b64encode(following.encode()).decode().rstrip("="),
        )

    async def state(self, run_id: str) -> StoredState:
        """Raises RunNotFound."""
        row = await self._database.fetchrow(_SQL["state"], run_id)
        if row is None:
            raise RunNotFound(run_id)
        return StoredState(run_id, row["seq"] or 0, row["state"])


def _view(row: Row) -> RunView:
    state = RunState(row["state"])
    return RunView(
        run_id=row["run_id"],
        agent=row["agent"],
        state=state,
        external=row["external"],
        last_seq=row["last_seq"],
        published_seq=row["published_seq"],
        attempt=row["attempt"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        outcome=state if state.terminal else None,
        error_code=row["error_code"],
        waiting_for=row["waiting_for"],
        cancel_requested=row["cancel_requested"],
        trace_id=sampled_trace_id(row["traceparent"]),
    )


def decoded_cursor(cursor: str) -> tuple[int, str]:
    """Creation (epoch microseconds) and id of the last run of the page before. Raises InvalidRequest."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        created_us, _, run_id = text.partition(" ")
        return _bigint(created_us), checked_run_id(run_id)
    except (binascii.Error, UnicodeError, ValueError, InvalidRequest):
        raise InvalidRequest("cursor is not one that this service returned", code="invalid_cursor") from None


def _bigint(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**53:
        raise ValueError(text)
    return value
