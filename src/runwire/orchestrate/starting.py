"""Starts runs: a run is durable and claimable before its start returns, and the same start makes it once."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple

import msgspec

from runwire.db import Database, Transaction, load_sql, seen_by
from runwire.errors import InvalidRequest, StartConflict, StateRefused, UnknownAgent
from runwire.model.graph import Agents
from runwire.model.labels import checked_labels, checked_session
from runwire.model.run import DEFAULT_TENANT, checked_run_id, new_run_id
from runwire.orchestrate.claim import Claim
from runwire.orchestrate.open_runs import OpenRuns
from runwire.orchestrate.seat import Seat
from runwire.orchestrate.settings import DEFAULTS

_SQL = load_sql("runwire.orchestrate", "orchestrate.sql")


@dataclass(frozen=True, slots=True)
class StartRequest:
    """A run as its caller asks for it. `traceparent` (W3C) is the one to store; `sampled` says whether it is traced."""

    agent: str = "golden"
    run_id: str | None = None
    input: dict[str, Any] | None = None
    external: bool = False
    lease_s: float = DEFAULTS.lease_s
    idempotency_key: str | None = None
    tenant: str = DEFAULT_TENANT
    traceparent: str | None = None
    sampled: bool = False
    session: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def fingerprint(self) -> bytes:
        """A hash of the request. A repeated request has the same one."""
        asked: tuple[object, ...] = (self.agent, self.run_id, self.input, self.external, self.lease_s)
        if self.session is not None or self.labels:  # without them the hash is what it was before there were any
            asked += (self.session, self.labels)
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
    session: str | None
    labels: str
    sampled: str | None


@dataclass(frozen=True, slots=True)
class Started:
    """`created` is False when the same start was made before. `fence` is for external orchestrators."""

    run_id: str
    created: bool
    fence: int | None


@dataclass(frozen=True, slots=True)
class RunStarter:
    """Starts runs, of one tenant or of all. `on_claimable(agent)` tells workers of a run, after the commit."""

    database: Database
    agents: Agents
    open_runs: OpenRuns
    _: KW_ONLY
    on_claimable: Callable[[str], None]
    seat: Callable[[str, str], Seat | None]
    """A permit for a new run at a worker of this process, by run and agent."""
    first_fence: Callable[[], int]
    """Makes the first fence of an external run."""
    state_max_bytes: int
    tenant: str | None = None

    async def start(self, request: StartRequest) -> Started:
        """The run, durable and claimable; the earlier run when id or idempotency key repeat an earlier start.

        Raises UnknownAgent, InvalidRequest (`invalid_run_id`, `invalid_session`, `invalid_labels`, `invalid_input`),
        StartConflict or Overloaded.
        """
        stored_input = self._first_state(request)
        run_id = self._minted_run_id() if request.run_id is None else checked_run_id(request.run_id)
        labels = checked_labels(request.labels)
        if request.session is not None:
            checked_session(request.session)
        await self.open_runs.admit()
        fingerprint = request.fingerprint()
        run = _NewRun(
            run_id,
            self.tenant or request.tenant,
            request.agent,
            request.external,
            request.lease_s,
            request.traceparent,
            request.idempotency_key,
            fingerprint,
            stored_input,
            request.session,
            msgspec.json.encode(labels).decode(),
            request.traceparent if request.sampled else None,
        )
        # A tenant's role may not name a worker: its runs are claimed as soon as they are stored.
        fence = self.first_fence() if request.external else 0
        seat = None if request.external or self.tenant is not None else self.seat(run_id, request.agent)
        if seat is not None:
            # When the caller leaves, the statement goes on, so that a run it makes still has its worker.
            starting = asyncio.create_task(self._make_seated(seat, run), name=f"start {run_id}")
            made = await asyncio.shield(starting)
        else:
            made = await self._make(run, fence=fence)
            if made and not request.external:
                self.on_claimable(request.agent)
        if not made:
            return await self._started_before(run_id, request, fingerprint)
        return Started(run_id, created=True, fence=fence if request.external else None)

    def _minted_run_id(self) -> str:
        """A run id that no other tenant may choose; otherwise a tenant could learn by trying that an id is taken.

        Ids without a colon are those of the tenant `default`. No tenant has an empty name, so an id that begins with a
        colon is for those whose name does not fit into one.
        """
        minted = new_run_id()
        if self.tenant in (None, DEFAULT_TENANT):
            return minted
        try:
            return checked_run_id(f"{self.tenant}:{minted}")
        except InvalidRequest:
            return f":{minted}"

    async def _make_seated(self, seat: Seat, run: _NewRun) -> bool:
        """As `_make`; the run is the worker's from the beginning, and walked at once."""
        span_id = None if run.sampled is None else secrets.token_hex(8)
        with seat:
            row = await self.database.fetchrow(
                _SQL["start"], *run._replace(lease_s=seat.lease_s), seat.worker_id, span_id, 1
            )
            if row is not None:
                claim = Claim.of_start(
                    run.run_id,
                    agent=run.agent,
                    input_=run.input,
                    traceparent=run.traceparent,
                    session=run.session,
                    worker_id=seat.worker_id,
                    span_id=span_id,
                )
                seat.take(claim)
        return row is not None

    async def _make(self, run: _NewRun, *, fence: int) -> bool:
        """Whether the run and its outbox row are there now; False when the id or the key is taken."""
        if self.tenant is None:
            return await self.database.fetchrow(_SQL["start"], *run, None, None, fence) is not None

        # Two statements: a policy looks at the run the second is for, and sees what earlier statements made.
        async def make(transaction: Transaction) -> bool:
            made = await transaction.fetchrow(_SQL["start_run"], *run[:-1], fence)
            if made is not None:
                await transaction.execute(_SQL["start_outbox"], made["run_id"], made["run_day"], run.sampled)
            return made is not None

        return await seen_by(self.database, self.tenant).in_transaction(make)

    def _first_state(self, request: StartRequest) -> bytes:
        """The state that the run begins with, defaults included. A deploy that changes a default changes no earlier
        run. The input as it came, for an external run.
        """
        given = msgspec.json.encode(request.input or {})
        if request.external:
            return given
        agent = self.agents.get(request.agent)
        if agent is None:
            raise UnknownAgent(request.agent, known=self.agents.names)
        state = agent.state_type.from_input(given)
        try:
            return agent.state_type.save(state, at_most=self.state_max_bytes)[0]
        except StateRefused as error:
            if error.code == "state_too_large":
                why = f"the state it makes has more than {self.state_max_bytes} bytes"
            else:
                why = "the state it makes is not the same when it comes back from JSON"
            raise InvalidRequest(f"input: {why}", code="invalid_input") from None

    async def _started_before(self, run_id: str, request: StartRequest, fingerprint: bytes) -> Started:
        tenant = self.tenant or request.tenant
        rows = await seen_by(self.database, self.tenant).fetch(
            _SQL["taken_by"], run_id, tenant, request.idempotency_key
        )
        for row in rows:
            if row["request_hash"] != fingerprint:
                by = "this runId" if row["run_id"] == request.run_id else "this Idempotency-Key"
                raise StartConflict(row["run_id"], by=by)
        if not rows:  # it is another tenant's, or was withdrawn meanwhile: which of them is nobody's business
            raise StartConflict(run_id, by="this runId")
        first = rows[0]
        return Started(first["run_id"], created=False, fence=first["fence"])
