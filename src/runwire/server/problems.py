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
    ArchiveUnavailable,
    AuthUnavailable,
    CursorExpired,
    CursorPastTail,
    DatabaseFailed,
    DatabaseUnavailable,
    FenceLost,
    InvalidRequest,
    NotPermitted,
    Overloaded,
    RunClosed,
    RunNotFound,
    RunStillOpen,
    RunwireError,
    SeqConflict,
    StartConflict,
    StorageUnavailable,
    TooManyReplays,
    Unauthenticated,
    UnknownAgent,
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


@dataclass(frozen=True, slots=True)
class Kind:
    """The members that all problems of one code share. `title` states the error without details of the request."""

    status: int
    title: str


KINDS: Final[Mapping[str, Kind]] = {
    "malformed_http": Kind(400, "The request breaks the rules of HTTP/1.1."),
    "malformed_json": Kind(400, "The body is not JSON."),
    "malformed_body": Kind(400, "The body could not be read."),
    "duplicate_header": Kind(400, "A header that may appear once appears twice."),
    "invalid_run_id": Kind(400, "A run id must be 1 to 128 characters of A-Za-z0-9._:-"),
    "invalid_cursor": Kind(400, "The cursor is malformed."),
    "invalid_replay": Kind(400, "replay must be 1, and speed needs replay."),
    "invalid_speed": Kind(400, "The speed must be a number up to 1000, or max."),
    "invalid_limit": Kind(400, "The limit is out of range."),
    "invalid_state": Kind(400, "Unknown run state."),
    "invalid_agent": Kind(400, "The agent name is not valid."),
    "invalid_idempotency_key": Kind(400, "An Idempotency-Key must be 1 to 255 visible ASCII characters."),
    "missing_fence": Kind(
        400, "The header Runwire-Fence is missing. It carries the fence that the start of the run returned."
    ),
    "cursor_past_tail": Kind(400, "The cursor is past the end of the run's log."),
    "credentials_missing": Kind(401, "The request needs credentials."),
    "credentials_invalid": Kind(401, "The credentials are not valid for this service."),
    "credentials_expired": Kind(401, "The credentials have expired."),
    "scope_missing": Kind(403, "The credentials lack the scope that this request needs."),
    "run_id_reserved": Kind(403, "A run id that you choose must begin with your tenant and a colon."),
    "origin_refused": Kind(
        403, "Web pages of this origin may not send this request to a service without authentication."
    ),
    "host_refused": Kind(403, "A service without authentication does not accept this host name."),
    "not_found": Kind(404, "There is no resource at this path."),
    "run_not_found": Kind(404, "There is no run with this id."),
    "method_not_allowed": Kind(405, "This path does not accept this method."),
    "request_timeout": Kind(408, "The request did not arrive in time."),
    "start_conflict": Kind(409, "Another start already used this run id or Idempotency-Key."),
    "not_external": Kind(409, "Only runs started with `external` accept events over HTTP."),
    "run_closed": Kind(409, "The run has ended."),
    "fence_stale": Kind(409, "Another owner has claimed the run. This fence is no longer valid."),
    "seq_conflict": Kind(409, "The run's log is not at the seq that `ifSeq` names."),
    "illegal_append": Kind(409, "These events may not follow the events in the run's log."),
    "signal_not_taken": Kind(409, "Runs started with `external` do not accept signals."),
    "too_many_signals": Kind(409, "Too many signals are waiting for the run."),
    "run_open": Kind(409, "Only a run that has ended can be replayed."),
    "cursor_expired": Kind(410, "The events after the cursor are no longer available."),
    "body_too_large": Kind(413, "The body is too large."),
    "uri_too_long": Kind(414, "The URL is too long."),
    "unsupported_media_type": Kind(415, "The body must be application/json."),
    "unsupported_encoding": Kind(415, "The body must not be compressed."),
    "expectation_failed": Kind(417, "The server supports no expectation but 100-continue."),
    "invalid_request": Kind(422, "The body does not match the schema."),
    "invalid_input": Kind(422, "The input does not match the agent's state."),
    "unknown_agent": Kind(422, "There is no agent with this name."),
    "value_refused": Kind(422, "The database refused a value. Nothing was changed."),
    "batch_too_large": Kind(422, "The batch has too many events."),
    "illegal_batch": Kind(422, "No run can accept this batch of events."),
    "headers_too_large": Kind(431, "A header is too long."),
    "too_many_requests": Kind(429, "Too many requests from this client address."),
    "too_many_own_streams": Kind(429, "Too many open streams from this client address."),
    "too_many_replays": Kind(429, "Too many replays are running."),
    "internal": Kind(500, "Unexpected error in the service."),
    "too_many_connections": Kind(503, "Too many open connections."),
    "too_many_runs": Kind(503, "Too many open runs. The run was not started."),
    "too_many_streams": Kind(503, "Too many open streams."),
    "archive_unavailable": Kind(503, "The archive that holds the run's events does not answer."),
    "database_unavailable": Kind(503, "The database does not answer. Nothing was changed."),
    "read_timed_out": Kind(503, "The read exceeded its time limit."),
    "auth_unavailable": Kind(503, "The keys that verify tokens are not available. Nothing was changed."),
    "storage_unavailable": Kind(
        503, "The database failed during the append. It is safe to repeat the append with `ifSeq`."
    ),
    "partition_missing": Kind(503, "The log has no partition for the run's day. Nothing was stored."),
}
"""Every code. Codes are public API: clients branch on them."""

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
        kind = KINDS[self.code]
        body = {
            "type": f"{prefix}/docs/problems#{self.code}",
            "title": kind.title,
            "status": kind.status,
            "detail": self.detail,
            "code": self.code,
            "instance": prefix + instance,
            **self.facts,
        }
        return web.Response(
            status=kind.status,
            body=msgspec.json.encode(body),
            content_type=MEDIA_TYPE,
            headers={"Cache-Control": "no-store", **self.headers},
        )


_PASSING: Final = (ArchiveUnavailable, DatabaseUnavailable, StorageUnavailable, TooManyReplays)
"""Errors that may pass: the answer tells the client when to try again."""


def problem_of(error: RunwireError) -> Problem:
    """The problem that a client sees for an error. An error whose code is not public becomes `internal`."""
    if error.code not in KINDS:
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
    return Problem(code, KINDS[code].title)


def _headers(error: RunwireError) -> dict[str, str]:
    match error:
        case _ if isinstance(error, (*_PASSING, AuthUnavailable)):
            return {"Retry-After": str(RETRY_AFTER_S)}
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
    facts: dict[str, Any] = {"runId": error.run_id} if hasattr(error, "run_id") else {}
    match error:
        case RunNotFound() | StartConflict():
            pass
        case NotPermitted(scope=str(scope)):
            facts["scope"] = scope
        case UnknownAgent():
            facts |= {"agent": error.agent, "known": error.known}
        case RunClosed():
            facts |= {"state": error.state, "lastSeq": error.last_seq}
        case FenceLost():  # the current fence is its owner's secret
            facts |= {"lastSeq": error.last_seq}
        case SeqConflict():
            facts |= {"ifSeq": error.expected, "lastSeq": error.actual}
        case CursorPastTail():
            facts |= {"cursor": error.cursor, "lastSeq": error.last_seq}
        case RunStillOpen():
            facts |= {"state": error.state}
        case CursorExpired():
            facts |= {"earliestSeq": error.earliest_seq}
    return facts


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
        return Problem("expectation_failed", KINDS["expectation_failed"].title).response(
            instance=request.rel_url.raw_path
        )
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
    return Problem(code, KINDS[code].title)


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
