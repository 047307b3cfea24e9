"""Operations of callers on runs: start, view, list, cancel, signal. Each is durable before it returns."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from runwire.db import ConstraintViolated, Database, Row, Statements, Transaction, load_sql, seen_by
from runwire.errors import (
    AppendError,
    DatabaseFailed,
    InvalidRequest,
    RunClosed,
    RunNotFound,
    SignalNotTaken,
    StartConflict,
    StateRefused,
    TooManySignals,
    UnknownAgent,
)
from runwire.model.graph import Agents
from runwire.model.run import RunState, checked_run_id, new_run_id
from runwire.model.state import STATE_MAX_BYTES
from runwire.orchestrate.cancelling import Cancelling
from runwire.orchestrate.claim import Claim
from runwire.orchestrate.open_runs import OpenRuns
from runwire.orchestrate.seat import Seat
from runwire.telemetry.logs import LogEvent, get_logger
from runwire.telemetry.traceparent import sampled_trace_id

_SQL = load_sql("runwire.orchestrate", "orchestrate.sql")
_log = get_logger()

DEFAULT_TENANT = "default"
_NEWEST = (2**53 - 1, "")
"""The cursor of a first page: a time later than any run's creation."""


@dataclass(frozen=True, slots=True)
class StartRequest:
    """A run as its caller asks for it. `traceparent` (W3C) is the one to store; `sampled` says whether it is traced."""

    agent: str = "golden"
    run_id: str | None = None
    input: dict[str, Any] | None = None
    external: bool = False
    lease_s: float = 30.0
    idempotency_key: str | None = None
    tenant: str = DEFAULT_TENANT
    traceparent: str | None = None
    sampled: bool = False

    def fingerprint(self) -> bytes:
        """A hash of the request. A repeated request has the same one."""
        asked = (self.agent, self.run_id, self.input, self.external, self.lease_s)
        return hashlib.sha256(msgspec.json.encode(asked, order="sorted")).digest()


def new_fence() -> int:
    """The first fence of an external run. Its holder may append, so it must not be guessable.

    It is at least 2**51 and below 2**52: the fences of those who take the run over are higher, and below 2**53, which
    every JSON parser keeps.
    """
    return 2**51 + secrets.randbelow(2**51)


class _NewRun(NamedTuple):
    """The arguments of `start`, but for its worker. `sampled` is the traceparent again, of a run that is traced."""

    run_id: str
    tenant: str
    agent: str
    external: bool
    lease_s: float
    traceparent: str | None
    idempotency_key: str | None
    request_hash: bytes
    input: bytes
    sampled: str | None


@dataclass(frozen=True, slots=True)
class Started:
    """`created` is False when the same start was made before. `fence` is for external orchestrators."""

    run_id: str
    created: bool
    fence: int | None


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


class RunControl:
    """The control face of runs. `on_claimable(agent)` and `on_cancel(run_id)` tell workers, after the commit."""

    def __init__(
        self,
        database: Database,
        agents: Agents,
        *,
        on_claimable: Callable[[str], None],
        on_cancel: Callable[[str], None],
        open_max: int = 0,
        state_max_bytes: int = STATE_MAX_BYTES,
        read_timeout_s: float | None = None,
        tenant: str | None = None,
        seat: Callable[[str, str], Seat | None] = lambda _run_id, _agent: None,
        first_fence: Callable[[], int] = new_fence,
        cancelling: Cancelling | None = None,
    ) -> None:
        """`open_max` limits the open runs of all tenants; 0 is no limit. `state_max_bytes` limits the JSON of a state.
        With a `tenant`, runs of other tenants are invisible. `seat(run_id, agent)`: room at a worker of this process.
        `first_fence` makes that of an external run. `cancelling` ends cancelled runs that no worker walks; without it,
        another process does.
        """
        self._seat = seat
        self._cancelling = cancelling
        self._whole_database = database
        self._database: Statements = seen_by(database, tenant)
        self._first_fence = first_fence
        self._tenant = tenant
        self._agents = agents
        self._on_claimable = on_claimable
        self._on_cancel = on_cancel
        self._state_max_bytes = state_max_bytes
        self._read_timeout_s = read_timeout_s
        self._open_runs = OpenRuns(database, at_most=open_max)

    def on_behalf_of(self, tenant: str | None) -> RunControl:
        """The same for one tenant; for None, this one."""
        if tenant is None:
            return self
        bound = RunControl(
            self._whole_database,
            self._agents,
            on_claimable=self._on_claimable,
            on_cancel=self._on_cancel,
            state_max_bytes=self._state_max_bytes,
            read_timeout_s=self._read_timeout_s,
            cancelling=self._cancelling,
            tenant=tenant,
            first_fence=self._first_fence,
        )
        bound._open_runs = self._open_runs  # one count for all tenants
        return bound

    async def start(self, request: StartRequest) -> Started:
        """The run, durable and claimable; the earlier run when id or idempotency key repeat an earlier start.

        Raises UnknownAgent, InvalidRequest (`invalid_run_id`, `invalid_input`), StartConflict or Overloaded.
        """
        stored_input = self._first_state(request)
        run_id = self._minted_run_id() if request.run_id is None else checked_run_id(request.run_id)
        await self._open_runs.admit()
        fingerprint = request.fingerprint()
        run = _NewRun(
            run_id,
            self._tenant or request.tenant,
            request.agent,
            request.external,
            request.lease_s,
            request.traceparent,
            request.idempotency_key,
            fingerprint,
            stored_input,
            request.traceparent if request.sampled else None,
        )
        # A tenant's role may not name a worker: its runs are claimed as soon as they are stored.
        fence = self._first_fence() if request.external else 0
        seat = None if request.external or self._tenant is not None else self._seat(run_id, request.agent)
        if seat is not None:
            # When the caller leaves, the statement goes on, so that a run it makes still has its worker.
            starting = asyncio.create_task(self._make_seated(seat, run), name=f"start {run_id}")
            made = await asyncio.shield(starting)
        else:
            made = await self._make(run, fence=fence)
            if made and not request.external:
                self._on_claimable(request.agent)
        if not made:
            return await self._started_before(run_id, request, fingerprint)
        return Started(run_id, created=True, fence=fence if request.external else None)

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

    async def cancel(self, run_id: str) -> RunView:
        """The run after the request is durable; closed runs are left as they are. Raises RunNotFound.

        A run without a worker has ended then. The worker of a run is notified, and ends it soon.
        """
        changed = await self._database.execute(_SQL["cancel"], run_id)
        view = await self.view(run_id)
        if changed != "UPDATE 0":
            _log.info(LogEvent.CANCEL_REQUESTED, run_id=run_id)
        if not view.state.terminal and await self._end_at_rest(run_id):
            view = await self.view(run_id)
        if changed != "UPDATE 0":  # not before: a worker that takes the run to end it would be in the way
            self._on_cancel(run_id)
            self._on_claimable(view.agent)
        return view

    async def _end_at_rest(self, run_id: str) -> bool:
        if self._cancelling is None:
            return False
        try:
            return await self._cancelling.cancel(run_id)
        except (DatabaseFailed, AppendError) as error:  # the request is durable: a sweep ends the run
            _log.warning(LogEvent.APPEND_FAILED, run_id=run_id, code=error.code)
            return False

    async def signal(self, run_id: str, name: str) -> RunView:
        """The run after the signal is durable.

        Raises RunNotFound, RunClosed for a run that is over, SignalNotTaken for an external one, or TooManySignals for
        one that has a hundred others which it has not taken.
        """
        try:
            stored = await self._database.fetchrow(_SQL["signal"], run_id, name)
        except ConstraintViolated as error:
            if error.constraint != "run_signals_bounded":
                raise
            raise TooManySignals(run_id) from error
        view = await self.view(run_id)
        if stored is None:
            if not view.state.terminal:
                raise SignalNotTaken(run_id)
            raise RunClosed(run_id, state=view.state, last_seq=view.last_seq)
        self._on_claimable(view.agent)
        return view

    def _minted_run_id(self) -> str:
        """A run id that no other tenant may choose; otherwise a tenant could learn by trying that an id is taken.

        Ids without a colon are those of the tenant `default`. No tenant has an empty name, so an id that begins with a
        colon is for those whose name does not fit into one.
        """
        minted = new_run_id()
        if self._tenant in (None, DEFAULT_TENANT):
            return minted
        try:
            return checked_run_id(f"{self._tenant}:{minted}")
        except InvalidRequest:
            return f":{minted}"

    async def _make_seated(self, seat: Seat, run: _NewRun) -> bool:
        """As `_make`; the run is the worker's from the beginning, and walked at once."""
        span_id = None if run.sampled is None else secrets.token_hex(8)
        with seat:
            row = await self._database.fetchrow(
                _SQL["start"], *run._replace(lease_s=seat.lease_s), seat.worker_id, span_id, 1
            )
            if row is not None:
                claim = Claim.of_start(
                    run.run_id,
                    agent=run.agent,
                    input_=run.input,
                    traceparent=run.traceparent,
                    worker_id=seat.worker_id,
                    span_id=span_id,
                )
                seat.take(claim)
        return row is not None

    async def _make(self, run: _NewRun, *, fence: int) -> bool:
        """Whether the run and its outbox row are there now; False when the id or the key is taken."""
        if self._tenant is None:
            return await self._database.fetchrow(_SQL["start"], *run, None, None, fence) is not None

        # Two statements: a policy looks at the run the second is for, and sees what earlier statements made.
        async def make(transaction: Transaction) -> bool:
            made = await transaction.fetchrow(_SQL["start_run"], *run[:-1], fence)
            if made is not None:
                await transaction.execute(_SQL["start_outbox"], made["run_id"], made["run_day"], run.sampled)
            return made is not None

        return await self._database.in_transaction(make)

    def _first_state(self, request: StartRequest) -> bytes:
        """The state that the run begins with, defaults included. A deploy that changes a default changes no earlier
        run. The input as it came, for an external run.
        """
        given = msgspec.json.encode(request.input or {})
        if request.external:
            return given
        agent = self._agents.get(request.agent)
        if agent is None:
            raise UnknownAgent(request.agent, known=self._agents.names)
        state = agent.state_type.from_input(given)
        try:
            return agent.state_type.save(state, at_most=self._state_max_bytes)[0]
        except StateRefused as error:
            if error.code == "state_too_large":
                why = f"the state it makes has more than {self._state_max_bytes} bytes"
            else:
                why = "the state it makes is not the same when it comes back from JSON"
            raise InvalidRequest(f"input: {why}", code="invalid_input") from None

    async def _started_before(self, run_id: str, request: StartRequest, fingerprint: bytes) -> Started:
        tenant = self._tenant or request.tenant
        rows = await self._database.fetch(_SQL["taken_by"], run_id, tenant, request.idempotency_key)
        for row in rows:
            if row["request_hash"] != fingerprint:
                by = "this runId" if row["run_id"] == request.run_id else "this Idempotency-Key"
                raise StartConflict(row["run_id"], by=by)
        if not rows:  # it is another tenant's, or was withdrawn meanwhile: which of them is nobody's business
            raise StartConflict(run_id, by="this runId")
        first = rows[0]
        return Started(first["run_id"], created=False, fence=first["fence"])


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
