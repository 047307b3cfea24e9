"""Two tenants of one service: what it trusts, what each shows it, and what neither should get anywhere with."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from crash.wire import sent
from runwire.server.auth import Scope
from runwire.server.auth.keys import KeyRecord, new_key
from server.issuer import AUDIENCE, ISSUER, Issuer

RUNS: Final = "/api/agents/runs"
TICKET_S: Final = 5
"""So short that most tickets expire while their streams are cut off, and have to be asked for anew."""
TOKEN_S: Final = 60
RENEWED_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Tenant:
    """Credentials of one tenant, each a function: some are renewed. The names of its runs begin with its own."""

    name: str
    good: Callable[[], str]
    expired: Callable[[], str]
    forged: Callable[[], str]
    powerless: Callable[[], str]
    """Good, but without any scope."""
    without: Mapping[Scope, Callable[[], str]]
    """Good, but without this one scope."""

    @property
    def header(self) -> str:
        return bearer(self.good())

    def run_id(self, rest: str) -> str:
        return f"{self.name}:{rest}"

    def owns(self, run_id: str) -> bool:
        return run_id.startswith(f"{self.name}:")


class Realm:
    """One tenant has API keys, the other tokens of an issuer; `environment` makes a service trust both."""

    def __init__(self, folder: Path) -> None:
        records: list[KeyRecord] = []

        def key(*, scopes: Sequence[Scope] = tuple(Scope), expires_at: float | None = None) -> str:
            shown, record = new_key(tenant="acme", scopes=scopes, expires_at=expires_at)
            records.append(record)
            return shown

        good, stale, powerless = key(), key(expires_at=time.time() // 1 - 60), key(scopes=())
        lacking = {scope: key(scopes=[other for other in Scope if other is not scope]) for scope in Scope}
        issuer, stranger = Issuer(), Issuer()
        self.tenants: Final = (
            Tenant(
                "acme",
                lambda: good,
                lambda: stale,
                lambda: good[:-6] + "forged",
                lambda: powerless,
                {scope: partial(str, shown) for scope, shown in lacking.items()},
            ),
            Tenant(
                "globex",
                _renewed(lambda: issuer.ec_token(tenant="globex", exp=int(time.time()) + TOKEN_S)),
                _renewed(lambda: issuer.ec_token(tenant="globex", exp=int(time.time()) - 1)),
                _renewed(lambda: stranger.ec_token(tenant="globex")),
                _renewed(lambda: issuer.ec_token(tenant="globex", scope="")),
                {scope: _renewed(partial(_token_without, issuer, scope)) for scope in Scope},
            ),
        )
        self.environment: Final[Mapping[str, str]] = {
            "RUNWIRE_KEYS": ";".join(record.line for record in records),
            "RUNWIRE_JWT_JWKS": issuer.settings(folder)["jwt_jwks"],
            "RUNWIRE_JWT_ISSUER": ISSUER,
            "RUNWIRE_JWT_AUDIENCE": AUDIENCE,
            "RUNWIRE_JWT_TENANT_CLAIM": "tenant",
            "RUNWIRE_JWT_LEEWAY_S": "0",
            "RUNWIRE_TICKET_S": str(TICKET_S),
        }

    def of(self, run_id: str) -> Tenant:
        return next(tenant for tenant in self.tenants if tenant.owns(run_id))

    def other_than(self, tenant: Tenant) -> Tenant:
        return next(other for other in self.tenants if other is not tenant)


@dataclass(slots=True)
class BearerShown:
    """The credentials that a program sends each time it connects to a stream."""

    tenant: Tenant
    expired: bool = False

    async def shown(self) -> tuple[str, str]:
        return self.tenant.header, ""


@dataclass(slots=True)
class TicketShown:
    """The credentials of a page: a ticket in the URL, the same one until it is refused because it is too old."""

    run_id: str
    tenant: Tenant
    ports: Sequence[int]
    rng: random.Random
    renewed: int = 0
    _ticket: Ticket | None = None

    async def shown(self) -> tuple[str, str]:
        if self._ticket is None:
            self._ticket = await ticket_for(self.run_id, tenant=self.tenant, port=self.rng.choice(self.ports))
            self.renewed += 1
        return "", f"ticket={self._ticket.text}"

    @property
    def expired(self) -> bool:
        """Whether the ticket may be refused by now; then the next is a new one."""
        over = self._ticket is not None and self._ticket.expired
        if over:
            self._ticket = None
        return over


@dataclass(frozen=True, slots=True)
class Ticket:
    run_id: str
    text: str = field(repr=False)
    expires_ms: int

    @property
    def expired(self) -> bool:
        return time.time() * 1000 >= self.expires_ms


async def ticket_for(run_id: str, *, tenant: Tenant, port: int) -> Ticket:
    """Raises OSError or EOFError when no ticket is available at the moment."""
    request = (
        f"POST {RUNS}/{run_id}/stream-ticket HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{tenant.header}"
        "Content-Length: 0\r\n\r\n"
    )
    async with asyncio.timeout(20), sent(port, request) as (head, reader):
        if head.status == 503:
            raise ConnectionError
        answer = json.loads(await reader.readexactly(int(head.headers["content-length"])))
    assert head.status == 200, answer
    return Ticket(run_id, answer["ticket"], answer["expiresAt"])


def _token_without(issuer: Issuer, scope: Scope) -> str:
    return issuer.ec_token(tenant="globex", scope=" ".join(other for other in Scope if other is not scope))


def bearer(credential: str) -> str:
    return f"Authorization: Bearer {credential}\r\n"


def _renewed(make: Callable[[], str]) -> Callable[[], str]:
    """The same for RENEWED_S: signing takes longer than all else a request does here."""
    last: tuple[float, str] | None = None

    def current() -> str:
        nonlocal last
        if last is None or time.monotonic() - last[0] > RENEWED_S:
            last = time.monotonic(), make()
        return last[1]

    return current
