"""The gate before every route: it identifies the caller and checks the scope. Each route declares its scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol, cast

from aiohttp import web
from prometheus_client import Counter

from runwire.errors import AuthUnavailable, InvalidRequest, NotPermitted, Unauthenticated
from runwire.server.auth import keys as api_keys
from runwire.server.auth.caller import ANYBODY, Access, Caller, Scope
from runwire.server.auth.keys import KeyRing
from runwire.server.auth.tickets import Tickets
from runwire.server.auth.tokens import TokenVerifier
from runwire.stream.many import Selector
from runwire.telemetry.logs import LogEvent, get_logger

_CALLER: Final = web.RequestKey("runwire.caller", Caller)
_TICKET: Final = "ticket"
_log = get_logger()


class Guarded(Protocol):
    """A handler behind the gate; `access` is the scope that it requires."""

    access: Access

    def __call__(self, request: web.Request, /) -> Awaitable[web.StreamResponse]: ...


class Gate:
    """Lets callers through to the handlers it guards. `keys` and `tokens` None: there are none; with neither
    everybody is let through.
    """

    def __init__(
        self,
        tickets: Tickets,
        *,
        keys: KeyRing | None = None,
        tokens: TokenVerifier | None = None,
        tenants: bool = True,
        refused: Mapping[str, Counter] | None = None,
    ) -> None:
        """`refused` counts by the code of the refusal."""
        self.tickets = tickets
        self._refused = refused or {}
        self._keys = keys
        self._tokens = tokens
        self._tenants = tenants

    def close(self) -> None:
        """Keys are read no more from their file."""
        if self._keys is not None:
            self._keys.close()

    @property
    def asks(self) -> bool:
        """Whether callers must authenticate."""
        return self._keys is not None or self._tokens is not None

    def guarded(self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]], access: Access) -> Guarded:
        """The handler behind the gate; it finds its caller with `caller_of`."""

        async def handle(request: web.Request) -> web.StreamResponse:
            request[_CALLER] = await self.admit(request, access)
            return await handler(request)

        made = cast("Guarded", handle)
        made.access = access
        return made

    async def admit(self, request: web.Request, access: Access) -> Caller:
        """The caller. Raises Unauthenticated, NotPermitted, or AuthUnavailable."""
        if access.scope is None or not self.asks:
            return ANYBODY
        try:
            caller = await self._caller(request, access)
            caller.check(access.scope)
        except (AuthUnavailable, NotPermitted, Unauthenticated) as refusal:
            if refusal.code in self._refused:
                self._refused[refusal.code].inc()
            _log.debug(LogEvent.ACCESS_REFUSED, code=refusal.code, method=request.method)
            raise
        return caller if self._tenants else replace(caller, tenant=None)

    def stands(self, key_id: str) -> bool:
        """Whether the gate would still admit an API key that has opened a stream."""
        return self._keys is None or self._keys.holds(key_id, Scope.READ)

    def shows_content(self, key_id: str) -> bool:
        """Whether the gate would still admit an API key that watches content."""
        return self._keys is None or self._keys.holds(key_id, Scope.CONTENT_READ)

    async def _caller(self, request: web.Request, access: Access) -> Caller:
        given = request.headers.getall("Authorization", [])
        tickets = request.query.getall(_TICKET, []) if access.ticket else []
        if len(given) + len(tickets) > 1:
            raise Unauthenticated("The request has more than one credential.", code="credentials_invalid")
        if tickets:
            return self.tickets.caller(tickets[0], subject=_subject_of(request))
        if not given:
            raise Unauthenticated("The request has no credentials.", code="credentials_missing")
        scheme, _, credential = given[0].partition(" ")
        credential = credential.strip()
        if scheme.lower() != "bearer" or not credential:
            raise Unauthenticated(
                "The header Authorization must be `Bearer` and a token or an API key.", code="credentials_invalid"
            )
        if credential.startswith(api_keys.PREFIX) and self._keys is not None:
            return self._keys.caller(credential)
        if self._tokens is not None:
            return await self._tokens.caller(credential)
        raise Unauthenticated("The credentials are unknown.", code="credentials_invalid")


def _subject_of(request: web.Request) -> str:
    """The subject of the stream that a ticket is shown for: a run, or a selector of many. Nobody's for no selector."""
    run_id = request.match_info.get("run_id")
    if run_id is not None:
        return run_id
    query = request.query
    runs, sessions, labels = (query.getall(name, ()) for name in ("run", "session", "label"))
    try:
        return Selector.of(runs=runs, sessions=sessions, labels=labels).subject
    except InvalidRequest:
        return ""


def caller_of(request: web.Request) -> Caller:
    """The caller that the gate identified."""
    return request[_CALLER]


def check_guarded(app: web.Application) -> None:
    """Checks that every route of an application declares its access. Raises TypeError naming one that does not."""
    for route in app.router.routes():
        if not isinstance(getattr(route.handler, "access", None), Access):
            raise TypeError(f"{route.method} {route.resource} does not say who may call it")
