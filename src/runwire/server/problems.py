"""Errors as clients see them: RFC 9457 problem details with a stable `code`, and no internals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.typedefs import Handler

from runwire.clock import monotonic
from runwire.errors import (
    DECLARED,
    DatabaseFailed,
    InvalidRequest,
    NotPermitted,
    Overloaded,
    RangeNotSatisfiable,
    RunwireError,
    Unauthenticated,
)
from runwire.server.forwarded import prefix_of
from runwire.telemetry.logs import LogEvent, get_logger

_log = get_logger()

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1
LINE_MAX: Final = 8192
"""Bytes of a request's address."""
FIELD_MAX: Final = 8190
"""Bytes of a header with its name. It differs from LINE_MAX, so that the two errors can be told apart."""
TOLD_EVERY_S: Final = 5.0
_told_at: Final[dict[str, float]] = {}


_ACCEPTED: Final = {"unsupported_encoding": {"Accept-Encoding": "identity"}}
"""Headers of a problem that name what the server accepts (RFC 9110, 15.5.16)."""
_HTTP_CODES: Final = {
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    417: "expectation_failed",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One error, ready to be answered. `facts` are members of their own next to the standard ones."""

    code: str
    detail: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self, *, instance: str, prefix: str = "") -> web.Response:
        """`prefix` is the path below which a proxy serves this service."""
        kind = DECLARED[self.code].kind
        again = {"Retry-After": str(RETRY_AFTER_S)} if kind.retry else {}
        body = {
            "type": f"{prefix}/docs/problems#{self.code}",
            "title": kind.title,
            "status": kind.status,
            "detail": self.detail.encode(errors="backslashreplace").decode(),  # quotes of headers need not be UTF-8
            "code": self.code,
            "instance": prefix + instance,
            **self.facts,
        }
        return web.Response(
            status=kind.status,
            body=msgspec.json.encode(body),
            content_type=MEDIA_TYPE,
            headers={"Cache-Control": "no-store", **again, **self.headers},
        )


def problem_of(error: RunwireError) -> Problem:
    """The problem that a client sees for an error. An error whose code is not public becomes `internal`."""
    if error.code not in DECLARED:
        return Problem("internal", "Unexpected error.")
    if isinstance(error, InvalidRequest):
        return Problem(error.code, error.detail, headers=_ACCEPTED.get(error.code, {}))
    return Problem(error.code, str(error), facts=_facts(error), headers=_headers(error))


def problem_of_protocol(status: int, error: BaseException | None) -> Problem:
    """The problem for a request that aiohttp could not read, and for an error that no middleware saw."""
    if status >= 500:
        return Problem("internal", "Unexpected error.")
    code = "malformed_http"
    if isinstance(error, LineTooLong):
        code = "headers_too_large" if FIELD_MAX in error.args else "uri_too_long"
    return Problem(code, title_of(code))


def title_of(code: str) -> str:
    """The title of every problem with this code."""
    return DECLARED[code].kind.title


def _headers(error: RunwireError) -> dict[str, str]:
    match error:
        case RangeNotSatisfiable():
            return {"Content-Range": f"bytes */{error.size}"}
        case Overloaded():
            return {"Retry-After": str(error.retry_after_s)}
        case Unauthenticated(
            code="credentials_missing"
        ):  # RFC 6750, 3: no error code for a request without credentials
            return {"WWW-Authenticate": 'Bearer realm="runwire"'}
        case Unauthenticated():
            return {"WWW-Authenticate": 'Bearer realm="runwire", error="invalid_token"'}
        case NotPermitted(scope=str(scope)):
            return {"WWW-Authenticate": f'Bearer realm="runwire", error="insufficient_scope", scope="{scope}"'}
    return {}


def _facts(error: RunwireError) -> dict[str, Any]:
    found = ((fact.name, getattr(error, fact.attribute)) for fact in error.facts)
    return {name: value for name, value in found if value is not None}


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns every error of a handler into a problem response. Logs unexpected errors, without their text."""
    try:
        return await handler(request)
    except RunwireError as error:
        problem = problem_of(error)
        if problem.code == "internal":
            _tell(request, error)
        elif isinstance(error, DatabaseFailed):
            _tell_of_database(request, error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        problem = problem_of_http(error, request)
    except web.RequestPayloadError:
        problem = Problem("malformed_body", "The body ends early, or is not encoded as its headers say.")
    except Exception as error:  # noqa: BLE001  # the last resort: the client gets an answer, the log gets the rest
        _tell(request, error)
        problem = Problem("internal", "Unexpected error.")
    return problem.response(instance=request.rel_url.raw_path, prefix=prefix_of(request))


async def answer_expectation(request: web.Request) -> web.StreamResponse | None:
    """Tells a client that waits for it to send its body; refuses any other expectation (RFC 9110, 10.1.1)."""
    if request.version < HttpVersion11:
        return None
    if request.headers.get("Expect", "").lower() != "100-continue":
        return Problem("expectation_failed", title_of("expectation_failed")).response(instance=request.rel_url.raw_path)
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # aiohttp takes written bytes for the start of a response, and would then refuse to answer with an error.
    request.writer.output_size = 0
    return None


def problem_of_http(error: web.HTTPException, request: web.BaseRequest) -> Problem:
    """The problem for an error of aiohttp's own, with status 400 or above."""
    code = _HTTP_CODES.get(error.status, "malformed_http")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = sorted(error.allowed_methods)
        detail = f"The method {request.method} is not one of {', '.join(allowed)}."
        return Problem(code, detail, facts={"allowed": allowed}, headers={"Allow": ", ".join(allowed)})
    if error.status == 413:
        return Problem(
            code, f"The body may have at most {request.client_max_size} bytes.", facts={"max": request.client_max_size}
        )
    return Problem(code, title_of(code))


def _tell(request: web.Request, error: BaseException) -> None:
    _log.error(LogEvent.REQUEST_FAILED, method=request.method, route=_route_of(request), exc_info=error)


def _tell_of_database(request: web.Request, error: DatabaseFailed) -> None:
    """Logs at most once in `TOLD_EVERY_S` for each route, because every request fails during an outage."""
    route = _route_of(request)
    if monotonic() - _told_at.get(route, float("-inf")) >= TOLD_EVERY_S:
        _told_at[route] = monotonic()
        _log.warning(
            LogEvent.DATABASE_UNAVAILABLE,
            doing="request",
            method=request.method,
            route=route,
            code=error.code,
            why=str(error),
        )


def _route_of(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource else "none"
