"""Parses requests. Refuses a malformed part with a code that names the part."""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from runwire.errors import InvalidRequest
from runwire.model.event import NAME_PATTERN
from runwire.model.labels import checked_session, parsed_labels
from runwire.model.names import CODE_MAX
from runwire.model.run import RunState, checked_run_id
from runwire.orchestrate import RunFilter, RunOrder
from runwire.server.connections import body_of
from runwire.stream.many import Selector

T = TypeVar("T")

SEQ_MAX: Final = 2**53 - 1
"""The largest integer that survives every JSON parser; fences and seqs stay far below."""
LIST_DEFAULT: Final = 50
TIME_MAX_MS: Final = 10**14 - 1
"""Beyond the year 5000; PostgreSQL's times go further."""

_IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_SINGLE: Final = ("Idempotency-Key", "If-Range", "Last-Event-ID", "Origin", "Range", "Runwire-Fence")
"""Headers of one value that are read here. aiohttp refuses two of Content-Length, Content-Type or Host; the gate, of
Authorization."""
_AGENT: Final = re.compile(NAME_PATTERN)
_ERROR_CODE: Final = re.compile(rf"[a-z][a-z0-9_]{{0,{CODE_MAX - 1}}}")
_DIGITS_MAX: Final = len(str(SEQ_MAX))


def refuse_duplicates(request: web.Request) -> None:
    """Raises InvalidRequest (`duplicate_header`) where a proxy and we could each take another of two values."""
    for name in _SINGLE:
        if len(request.headers.getall(name, ())) > 1:
            raise InvalidRequest(f"The header {name} appears more than once.", code="duplicate_header")


async def decoded_body(request: web.Request, decoder: msgspec.json.Decoder[T], *, when_empty: bytes = b"") -> T:
    """The body, decoded by `decoder`. Raises InvalidRequest (`unsupported_media_type`, `malformed_json`,
    `invalid_request`), and aiohttp's own for one that is too large or broken.
    """
    if request.can_read_body:
        check_not_encoded(request)
    declared = request.headers.get("Content-Type")
    if declared and request.can_read_body and request.content_type != "application/json":
        raise InvalidRequest(f"{request.content_type} is not taken.", code="unsupported_media_type")
    try:
        return decoder.decode(await body_of(request) or when_empty)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidRequest("The body is not JSON in UTF-8.", code="malformed_json") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", code="malformed_json") from None


def run_id_in(request: web.Request) -> str:
    """The run the path names. Raises InvalidRequest (`invalid_run_id`)."""
    return checked_run_id(request.match_info["run_id"])


def limit_in(request: web.Request, *, default: int, at_most: int) -> int:
    """Raises InvalidRequest (`invalid_limit`)."""
    text = request.query.get("limit")
    if text is None:
        return min(default, at_most)
    limit = _integer(text)
    if limit is None or not 1 <= limit <= at_most:
        raise InvalidRequest(f"limit must be 1 to {at_most}", code="invalid_limit")
    return limit


def filter_in(request: web.Request) -> RunFilter:
    """The runs a list is asked for. Raises InvalidRequest, with a code for each kind of parameter."""
    query = request.query
    error_code = query.get("errorCode")
    if error_code is not None and not _ERROR_CODE.fullmatch(error_code):
        raise InvalidRequest("errorCode is not a code that a run can fail with", code="invalid_filter")
    session = query.get("session")
    return RunFilter(
        state=_state_in(request),
        agent=_agent_in(request),
        session=session if session is None else checked_session(session),
        labels=parsed_labels(query.getall("label", ())),
        error_code=error_code,
        from_ms=_time_in(request, "from"),
        until_ms=_time_in(request, "until"),
    )


def selector_in(request: web.Request, *, runs_max: int) -> Selector:
    """The runs that a stream of many is about. Raises InvalidRequest."""
    query = request.query
    return Selector.of(
        runs=query.getall("run", ()),
        sessions=query.getall("session", ()),
        labels=query.getall("label", ()),
        runs_max=runs_max,
    )


def order_in(request: web.Request) -> RunOrder:
    """Raises InvalidRequest (`invalid_filter`)."""
    try:
        return RunOrder(request.query.get("sort", RunOrder.CREATED))
    except ValueError:
        raise InvalidRequest(f"sort must be one of {', '.join(RunOrder)}", code="invalid_filter") from None


def _time_in(request: web.Request, name: str) -> int | None:
    text = request.query.get(name)
    time = None if text is None else _integer(text)
    if text is not None and (time is None or time > TIME_MAX_MS):
        raise InvalidRequest(f"{name} must be epoch milliseconds", code="invalid_filter")
    return time


def _state_in(request: web.Request) -> RunState | None:
    """Raises InvalidRequest (`invalid_state`)."""
    text = request.query.get("state")
    try:
        return None if text is None else RunState(text)
    except ValueError:
        raise InvalidRequest(f"state must be one of {', '.join(RunState)}", code="invalid_state") from None


def _agent_in(request: web.Request) -> str | None:
    """Raises InvalidRequest (`invalid_agent`)."""
    agent = request.query.get("agent")
    if agent is not None and not _AGENT.fullmatch(agent):
        raise InvalidRequest("agent is not a valid name of an agent", code="invalid_agent")
    return agent


def idempotency_key_in(request: web.Request) -> str | None:
    """Raises InvalidRequest (`invalid_idempotency_key`)."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidRequest(
            "Idempotency-Key must be 1 to 255 visible ASCII characters", code="invalid_idempotency_key"
        )
    return key


def fence_in(request: web.Request) -> int:
    """Raises InvalidRequest (`missing_fence`) when it is absent or no number."""
    fence = _integer(request.headers.get("Runwire-Fence", ""))
    if fence is None:
        raise InvalidRequest(
            "Runwire-Fence must be the number that the start of the run returned", code="missing_fence"
        )
    return fence


def _integer(text: str) -> int | None:
    """A decimal from 0 to SEQ_MAX. The length goes first: int() of a long string takes quadratic time."""
    if len(text) <= _DIGITS_MAX and text.isascii() and text.isdigit() and (number := int(text)) <= SEQ_MAX:
        return number
    return None


def check_not_encoded(request: web.Request) -> None:
    """Raises InvalidRequest (`unsupported_encoding`) for a body that declares a compression."""
    if encoding := _encoding_of(request):
        raise InvalidRequest(
            f"The body is encoded as {encoding}. Send it without an encoding.", code="unsupported_encoding"
        )


def _encoding_of(request: web.Request) -> str:
    codings = (coding.strip() for line in request.headers.getall("Content-Encoding", ()) for coding in line.split(","))
    return ", ".join(coding for coding in codings if coding.lower() not in ("", "identity"))[:64]
