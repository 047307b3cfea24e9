"""Turns problems (RFC 9457) back into the errors of the server, by their stable `code`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import msgspec

from runwire.errors import DECLARED, Declared, ExitCode, InvalidRequest, NotPermitted, RunwireError, Unauthenticated


class ServerUnreachable(RunwireError):
    """The service gave no answer within the client's `retry_s`. It may or may not have carried out the request."""

    code = "server_unreachable"
    exit_code = ExitCode.UNREACHABLE

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"cannot reach {url}: {reason}")
        self.url = url
        self.reason = reason


class ServerProblem(RunwireError):
    """The service refused the request with an error that has no type of its own. `status` is the HTTP status."""

    def __init__(self, status: int, *, code: str, detail: str) -> None:
        super().__init__(f"{detail} (HTTP {status}, {code})")
        self.status = status
        self.code = code
        self.detail = detail


class UnexpectedAnswer(RunwireError):
    """The answer is not one of a runwire service, or comes from another version of it."""

    code = "unexpected_answer"


class Problem(msgspec.Struct, frozen=True):
    """The members every problem has; the facts of its type are in `facts`."""

    status: int
    code: str
    detail: str
    facts: Mapping[str, Any]


def read_problem(status: int, body: bytes) -> Problem:
    """The problem in an answer with an error status. An answer without problem+json has the code `http_<status>`."""
    try:
        said = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        said = {}
    detail = said.get("detail") or said.get("title") or "the request was refused"
    return Problem(status, str(said.get("code") or f"http_{status}"), str(detail), said)


def error_of(problem: Problem, **of_call: object) -> RunwireError:
    """The error to raise. `of_call` are attributes that the request or the headers know, such as `run_id`."""
    declared = DECLARED.get(problem.code)
    if declared is not None and declared.error is not None:
        try:
            return _built(declared, declared.error, problem, of_call)
        except (KeyError, TypeError, ValueError):
            pass  # a fact is missing: the code and the text are still worth raising
    if problem.status == 401:
        return Unauthenticated(problem.detail, code=problem.code)
    if problem.status == 403 and not problem.code.startswith("http_"):  # of this service, not of a proxy before it
        return NotPermitted(problem.detail, code=problem.code, scope=problem.facts.get("scope"))
    if problem.status in (400, 413, 415, 422):
        return InvalidRequest(problem.detail, code=problem.code)
    return ServerProblem(problem.status, code=problem.code, detail=problem.detail)


def _built(
    declared: Declared, error: Callable[..., RunwireError], problem: Problem, of_call: Mapping[str, object]
) -> RunwireError:
    """The error as its type makes it from the problem's facts. Raises KeyError when one is missing."""
    known: dict[str, Any] = {**of_call, "code": problem.code, "detail": problem.detail}
    known |= {
        fact.attribute: fact.convert(problem.facts[fact.name])
        for fact in declared.facts
        if problem.facts.get(fact.name) is not None
    }
    asked = signature(error).parameters.values()
    return error(**{one.name: known[one.name] for one in asked if one.name in known or one.default is one.empty})
