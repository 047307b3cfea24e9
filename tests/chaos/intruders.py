"""Callers who try, the whole time and on every route, to see or touch what is not theirs."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from chaos.tenants import Realm, Tenant, Ticket, bearer, ticket_for
from crash.wire import sent
from runwire.server.auth import STREAM, Scope
from runwire.server.bodies import StartRun
from runwire.server.routes import MANY_STREAM, Route
from runwire.server.table import API_ROUTES
from waiting import eventually

AGENTS: Final = "/api/agents/"
ANSWER_S: Final = 15.0
TICKETS_KEPT: Final = 40
LISTED_AT_ONCE: Final = 200
LISTS: Final = 0.2
"""The share of attempts after which a list is looked at."""

_BODIES: Final[dict[str, object]] = {
    "signalRun": {"name": "approved"},
    "appendEvents": {"events": []},
    "openPart": {"name": "p"},
}
OF_RUNS: Final = tuple(op for op in API_ROUTES if op.path.startswith(AGENTS) and op.access.scope is not None)
"""Every operation on runs the service has: one that is added is tried without being named here."""

LIST: Final = next(op for op in OF_RUNS if op.operation_id == "listRuns")
READS: Final = (Scope.READ, Scope.STATE, Scope.OPS)
FILTERS: Final = ("", "", "&session=s0", "&session=s1", "&label=kind:author", "&label=kind:patient")
"""Of lists. Tenants use the same names of sessions and labels."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request of somebody who may not, and the one refusal that is right."""

    who: str
    operation: Route[Any]
    run_id: str
    status: int
    code: str
    header: str = ""
    parameter: str = ""

    def __str__(self) -> str:
        return f"{self.operation.method} {self.operation.shown_path} of {self.run_id} by {self.who}"


@dataclass(slots=True)
class Probes:
    """The attempts of intruders and their results."""

    tried: Counter[str] = field(default_factory=Counter)
    """By who tried."""
    refused: int = 0
    unavailable: int = 0
    """503, or no answer at all."""
    crossed: list[str] = field(default_factory=list)
    """Each answer that was neither."""
    lists: int = 0
    runs_listed: int = 0


class Intruders:
    """`ports` are those of API processes, some of which may be down or harmed at any time; `run_ids` may grow."""

    def __init__(
        self,
        realm: Realm,
        *,
        ports: Sequence[int],
        run_ids: Sequence[str],
        rng: random.Random,
        probes: Probes | None = None,
    ) -> None:
        self.probes = Probes() if probes is None else probes
        self._realm = realm
        self._ports = ports
        self._run_ids = run_ids
        self._rng = rng
        self._tickets: list[Ticket] = []
        self._cursors: deque[str] = deque(maxlen=10)

    async def run(self, *, pause_s: float) -> None:
        """One attempt after the other, at any run there is, until cancelled."""
        while True:
            if self._run_ids:
                run_id = self._some_run()
                await self._maybe_a_ticket(run_id)
                by_who: dict[str, list[Attempt]] = {}
                for attempt in self.attempts(run_id):
                    by_who.setdefault(attempt.who, []).append(attempt)
                await self.attempt(self._rng.choice(by_who[self._rng.choice(list(by_who))]))
                if self._rng.random() < LISTS:
                    await self._list_page(self._realm.of(run_id), cursor=self._rng.choice([None, *self._cursors]))
            await asyncio.sleep(self._rng.uniform(0, 2 * pause_s))

    async def in_the_calm(self, run_id: str) -> None:
        """Everything there is to try at one run, each until it is answered; and its owner, who is let in."""
        owner = self._realm.of(run_id)
        self._keep(await ticket_for(run_id, tenant=owner, port=self._rng.choice(self._ports)))
        for operation in OF_RUNS:
            if "{run_id}" in operation.path and operation.access.scope in READS:
                allowed = Attempt("its owner", operation, run_id, operation.status, "", owner.header)
                status, _ = await self._answer(allowed)
                assert status in (operation.status, *operation.others), f"{allowed}: {status}"
        for attempt in self.attempts(run_id):
            await eventually(partial(self.attempt, attempt), within_s=60)

    async def listed(self, tenant: Tenant) -> set[str]:
        """Every run the tenant is shown, in the calm."""
        seen: set[str] = set()
        cursor: str | None = None
        while True:
            page = await self._list_page(tenant, cursor=cursor, whole=True)
            assert page is not None, "no list in the calm"
            seen |= {run["runId"] for run in page["runs"]}
            cursor = page.get("nextCursor")
            if cursor is None:
                return seen

    def attempts(self, run_id: str) -> Iterator[Attempt]:
        """Each operation by each who may not do it, as far as there are tickets."""
        owner = self._realm.of(run_id)
        other = self._realm.other_than(owner)
        for operation in OF_RUNS:
            yield Attempt("nobody", operation, run_id, 401, "credentials_missing")
            for who, credential, status, code in (
                ("an expired credential", owner.expired(), 401, "credentials_expired"),
                ("a forged credential", owner.forged(), 401, "credentials_invalid"),
                ("a credential without scopes", owner.powerless(), 403, "scope_missing"),
                ("a credential without this scope", _without(owner, operation), 403, "scope_missing"),
                ("another tenant's expired credential", other.expired(), 401, "credentials_expired"),
            ):
                yield Attempt(who, operation, run_id, status, code, bearer(credential))
            if operation.operation_id == "startRun":  # a name of another tenant's, whether there is such a run or not
                yield Attempt("another tenant", operation, run_id, 403, "run_id_reserved", other.header)
            elif "{run_id}" in operation.path:
                yield Attempt("another tenant", operation, run_id, 404, "run_not_found", other.header)
                if operation.access == STREAM:
                    for how, parameter in (("as a replay", "replay=1"), ("with its parts", "parts=*")):
                        yield Attempt(
                            f"another tenant, {how}", operation, run_id, 404, "run_not_found", other.header, parameter
                        )
                    blind = bearer(owner.without[Scope.CONTENT_READ]())
                    yield Attempt(
                        "a reader of events, of parts", operation, run_id, 403, "scope_missing", blind, "parts=*"
                    )
            elif operation.path.startswith(MANY_STREAM):
                listed = f"run={run_id}"
                yield Attempt("another tenant", operation, run_id, 404, "run_not_found", other.header, listed)
                own = f"run={other.run_id('nothing')}&{listed}"
                yield Attempt(
                    "another tenant, among others", operation, run_id, 404, "run_not_found", other.header, own
                )
            yield from self._with_tickets(operation, run_id)

    def _with_tickets(self, operation: Route[Any], run_id: str) -> Iterator[Attempt]:
        for ticket in self._some_tickets(run_id):
            parameter, own = f"ticket={ticket.text}", ticket.run_id == run_id
            who = "its own ticket" if own else "another run's ticket"
            if operation.path == MANY_STREAM:  # its tickets are for a selector
                parameter, own = f"run={run_id}&{parameter}", False
            yield Attempt(f"{who}, as a token", operation, run_id, 401, "credentials_invalid", bearer(ticket.text))
            if operation.access != STREAM:  # no other route looks at tickets
                yield Attempt(f"{who}, on another route", operation, run_id, 401, "credentials_missing", "", parameter)
            elif not own:
                yield Attempt(who, operation, run_id, 401, "credentials_invalid", "", parameter)
            elif ticket.expired:
                yield Attempt("its expired ticket", operation, run_id, 401, "credentials_expired", "", parameter)

    def _some_tickets(self, run_id: str) -> list[Ticket]:
        """Up to three: the run's oldest and newest, and one of another run."""
        own = [ticket for ticket in self._tickets if ticket.run_id == run_id]
        others = [ticket for ticket in self._tickets if ticket.run_id != run_id]
        return [*own[:1], *own[1:][-1:], *self._rng.sample(others, min(1, len(others)))]

    def _some_run(self) -> str:
        """One that goes on, one that is over, or one there is a ticket for."""
        drawn = self._rng.random()
        if drawn < 0.4 and self._tickets:
            return self._rng.choice(self._tickets).run_id
        return self._rng.choice(self._run_ids[-30:] if drawn < 0.8 else self._run_ids)

    async def attempt(self, attempt: Attempt) -> bool:
        """Makes it and notes what became of it. Whether there was an answer."""
        probes = self.probes
        probes.tried[attempt.who] += 1
        try:
            status, body = await self._answer(attempt)
        except (OSError, EOFError):
            status, body = 503, {}
        if status == 503:
            probes.unavailable += 1
            return False
        if (status, body.get("code")) == (attempt.status, attempt.code):
            probes.refused += 1
        else:
            probes.crossed.append(f"{attempt}: {status} {body.get('code', '')}".rstrip())
        return True

    async def _list_page(self, tenant: Tenant, *, cursor: str | None, whole: bool = False) -> dict[str, Any] | None:
        """A page of what the tenant is shown, filtered or `whole`; None when it is not available. All on it must be its
        own.
        """
        page = "" if cursor is None else f"&cursor={cursor}"
        page += "" if whole else self._rng.choice(FILTERS)
        allowed = Attempt(tenant.name, LIST, "", 200, "", tenant.header, f"limit={LISTED_AT_ONCE}{page}")
        try:
            status, body = await self._answer(allowed)
        except (OSError, EOFError):
            return None
        if status == 503:
            return None
        assert status == 200, body
        if following := body.get("nextCursor"):
            self._cursors.append(following)
        shown = [run["runId"] for run in body["runs"]]
        self.probes.lists += 1
        self.probes.runs_listed += len(shown)
        self.probes.crossed += [f"{tenant.name} is shown {run_id}" for run_id in shown if not tenant.owns(run_id)]
        return body

    async def _maybe_a_ticket(self, run_id: str) -> None:
        if len(self._tickets) < TICKETS_KEPT or self._rng.random() < 0.02:
            try:
                port = self._rng.choice(self._ports)
                self._keep(await ticket_for(run_id, tenant=self._realm.of(run_id), port=port))
            except (OSError, EOFError):
                return

    def _keep(self, ticket: Ticket) -> None:
        self._tickets.append(ticket)
        del self._tickets[:-TICKETS_KEPT]

    async def _answer(self, attempt: Attempt) -> tuple[int, dict[str, Any]]:
        """Status and body; that of a stream is not read. Raises OSError or EOFError where there is no answer."""
        operation = attempt.operation
        body = _BODIES.get(operation.operation_id, {"runId": attempt.run_id} if operation.body is StartRun else None)
        text = "" if body is None else json.dumps(body)
        path = operation.path.replace("{run_id}", attempt.run_id).replace("{n}", "1")
        request = (
            f"{operation.method} {path}?{attempt.parameter} HTTP/1.1\r\n"
            f"Host: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nRunwire-Fence: 1\r\n"
            f"{attempt.header}Content-Length: {len(text)}\r\n\r\n{text}"
        )
        async with asyncio.timeout(ANSWER_S), sent(self._rng.choice(self._ports), request) as (head, reader):
            if head.headers.get("content-type", "").partition(";")[0].endswith("json"):
                answer: dict[str, Any] = json.loads(await reader.readexactly(int(head.headers["content-length"])))
                return head.status, answer
            return head.status, {}


def _without(tenant: Tenant, operation: Route[Any]) -> str:
    scope = operation.access.scope
    assert scope is not None
    return tenant.without[scope]()
