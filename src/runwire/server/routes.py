"""How a route is declared. The applications, the OpenAPI documents and the checks of query parameters derive from it.

Each module of handlers ends with the group of its routes; `table` lists the groups of both listeners:

    EVENTS: Final = Group(EventRoutes, (Route("GET", RUN + "/events", EventRoutes.page, Access(Scope.READ), ...),))
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler

from runwire.errors import InvalidRequest
from runwire.server.auth.caller import Access
from runwire.server.settings import ServerSettings

Owner = TypeVar("Owner")
Services = TypeVar("Services")

RUNS: Final = "/api/agents/runs"
MANY_STREAM: Final = "/api/agents/stream"
RUN: Final = RUNS + "/{run_id}"

GATE_ERRORS: Final = (
    "credentials_missing",
    "credentials_invalid",
    "credentials_expired",
    "scope_missing",
    "origin_refused",
    "host_refused",
    "auth_unavailable",
)
BODY_ERRORS: Final = (
    *("malformed_json", "malformed_body", "request_timeout", "body_too_large"),
    *("unsupported_media_type", "unsupported_encoding", "invalid_request"),
)
RUN_ERRORS: Final = ("invalid_run_id", "run_not_found", "too_many_requests", "database_unavailable", "internal")
TICKET: Final = "ticket"
"""The query parameter with a stream ticket, on routes that take one."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter or a header. `schema` is its JSON Schema; `at_most` reads its maximum from the settings."""

    name: str
    schema: Mapping[str, Any]
    description: str
    required: bool = False
    at_most: Callable[[ServerSettings], int] | None = None


@dataclass(frozen=True, slots=True)
class Route(Generic[Owner]):
    """One method of one path. `handler` is a method of the object that serves the route.

    `body` and `answer` are the types of the bodies; `takes_bytes` stands for a body of any kind. A status of 204 has no
    body. `errors` are the codes that the handler answers. `others` are further
    statuses without a body, and what they mean. `head` serves HEAD, too.
    """

    method: str
    path: str
    handler: Callable[[Owner, web.Request], Awaitable[web.StreamResponse]]
    access: Access
    operation_id: str
    summary: str
    description: str = ""
    query: tuple[Parameter, ...] = ()
    headers: tuple[Parameter, ...] = ()
    body: type | None = None
    body_required: bool = True
    takes_bytes: bool = False
    examples: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    answer: type | None = None
    media: str = "application/json"
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[int, str] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    head: bool = True

    @property
    def shown_path(self) -> str:
        """The path as documents show it, e.g. `/api/agents/runs/{runId}`."""
        return self.path.replace("{run_id}", "{runId}")

    @property
    def all_errors(self) -> tuple[str, ...]:
        """Its own codes, those of the check of its query and of its length, and those of the gate."""
        of_query = ("unknown_parameter", *(("uri_too_long",) if self.query else ()))
        return (*self.errors, *of_query, *(() if self.access.scope is None else GATE_ERRORS))

    def bound(self, owner: Owner) -> Handler:
        """The handler of one owner. Raises InvalidRequest (`unknown_parameter`) for a query that is not declared."""
        known = {parameter.name for parameter in self.query} | ({TICKET} if self.access.ticket else set())
        expected = ", ".join(sorted(known)) or "none"

        async def handle(request: web.Request) -> web.StreamResponse:
            if request.query_string and not request.query.keys() <= known:
                raise InvalidRequest(f"This route knows these query parameters: {expected}.", code="unknown_parameter")
            return await self.handler(owner, request)

        return handle


@dataclass(frozen=True, slots=True)
class Group(Generic[Services, Owner]):
    """The routes that one object serves. `owner` makes it from the services of the listener."""

    owner: Callable[[Services], Owner]
    routes: tuple[Route[Owner], ...]

    def bound(self, services: Services) -> tuple[tuple[Route[Any], Handler], ...]:
        """Each route with its handler, of one owner."""
        owner = self.owner(services)
        return tuple((route, route.bound(owner)) for route in self.routes)
