"""Runs as callers see them: one, a page of a list, a run's state."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

from runwire.db import Row, Statements, load_sql
from runwire.errors import InvalidRequest, RunNotFound
from runwire.model.run import DEFAULT_TENANT, RunState, checked_run_id
from runwire.telemetry.traceparent import sampled_trace_id

_SQL = load_sql("runwire.orchestrate", "orchestrate.sql")
_NEWEST = (2**53 - 1, "")
"""The cursor of a first page: a time later than any run's creation."""
SCAN_MAX: Final = 5000
"""Runs that one page looks at. A page for which too few of them match ends early, with a cursor."""
_labels: Final = msgspec.json.Decoder(dict[str, str])


class RunOrder(StrEnum):
    """The order of a list: by creation, or by end, which leaves open runs out. The latest comes first."""

    CREATED = "created"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class RunFilter:
    """The runs of a list: those that match all that is set. Times are epoch milliseconds, of a run's creation:
    `from_ms` is inclusive, `until_ms` exclusive.
    """

    state: RunState | None = None
    agent: str | None = None
    session: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    error_code: str | None = None
    from_ms: int | None = None
    until_ms: int | None = None


ALL_RUNS: Final = RunFilter()


class RunView(msgspec.Struct, frozen=True, rename="camel"):
    """A run as callers see it. Times are epoch milliseconds; `trace_id` is of sampled runs only.

    A waiting run waits for any of the signals in `waiting_for`, which blanks separate; null if it only sleeps until
    `waiting_until`.
    """

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
    waiting_since: int | None
    waiting_until: int | None
    cancel_requested: bool
    trace_id: str | None
    session: str | None
    labels: dict[str, str]


class RunPage(msgspec.Struct, frozen=True, rename="camel"):
    runs: list[RunView]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class StoredState:
    """A run's state as of its last checkpoint; before the first, with seq 0, the one that it begins with. `state` is
    JSON, or None for an external run.
    """

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
        wanted: RunFilter = ALL_RUNS,
        *,
        order: RunOrder = RunOrder.CREATED,
        cursor: str | None = None,
        limit: int = 50,
        tenant: str = DEFAULT_TENANT,
    ) -> RunPage:
        """The latest runs that match, at most `limit`. There may be fewer, or none, on a page with a cursor.

        Raises InvalidRequest (`invalid_cursor`) and ReadTimedOut.
        """
        before_us, before_id = _NEWEST if cursor is None else decoded_cursor(cursor, order=order)
        rows = await self._database.fetch(
            _SQL["page"],
            self._tenant or tenant,
            order is RunOrder.ENDED,
            wanted.session,
            msgspec.json.encode(wanted.labels).decode(),
            wanted.agent,
            wanted.state and wanted.state.value,
            wanted.error_code,
            wanted.from_ms,
            wanted.until_ms,
            before_us,
            before_id,
            limit + 1,
            SCAN_MAX,
            within_s=self._read_timeout_s,
        )
        found = [row for row in rows if row["matched"]]
        last = found[limit - 1] if len(found) > limit else rows[-1] if len(rows) > len(found) else None
        return RunPage(
            # A run that was removed since it was found is no longer there to be shown.
            [_view(row) for row in found[:limit] if row["run_id"] is not None],
            None if last is None else _cursor(order, last),
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
        waiting_for=row["waiting_for"] or None,
        waiting_since=row["waiting_since"],
        waiting_until=row["waiting_until"],
        cancel_requested=row["cancel_requested"],
        trace_id=sampled_trace_id(row["traceparent"]),
        session=row["session"],
        labels={} if row["labels"] == "{}" else _labels.decode(row["labels"]),
    )


def _cursor(order: RunOrder, last: Row) -> str:
    text = f"{last['at_us']} {last['id']}"
    if order is not RunOrder.CREATED:
        text = f"{order} {text}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decoded_cursor(cursor: str, *, order: RunOrder = RunOrder.CREATED) -> tuple[int, str]:
    """Creation or end (epoch microseconds) and id of the last run of the page before. Raises InvalidRequest."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        at_us, _, run_id = _of_order(text, order).partition(" ")
        return _bigint(at_us), checked_run_id(run_id)
    except (binascii.Error, UnicodeError, ValueError, InvalidRequest):
        raise InvalidRequest("cursor is not one that this service returned", code="invalid_cursor") from None


def _of_order(text: str, order: RunOrder) -> str:
    if order is RunOrder.CREATED:
        return text
    named, _, rest = text.partition(" ")
    if named != order:
        raise ValueError(text)
    return rest


def _bigint(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**53:
        raise ValueError(text)
    return value
