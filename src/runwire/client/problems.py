"""Turns problems (RFC 9457) back into the errors of the server, by their stable `code`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from runwire.errors import (
    AppendError,
    ArchiveUnavailable,
    AuthUnavailable,
    CursorExpired,
    CursorPastTail,
    DatabaseUnavailable,
    FenceLost,
    IllegalAppend,
    InvalidRequest,
    NotPermitted,
    PartitionMissing,
    RunClosed,
    RunNotFound,
    RunStillOpen,
    RunwireError,
    SeqConflict,
    StartConflict,
    StorageUnavailable,
    Unauthenticated,
    UnknownAgent,
)


class ServerUnreachable(RunwireError):
    """The service gave no answer within the client's `retry_s`. It may or may not have carried out the request."""

    code = "server_unreachable"

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


def error_of(problem: Problem, *, run_id: str = "", fence: int | None = None) -> RunwireError:
    """The error to raise. `run_id` and `fence` come from the request, for problems that do not name them."""
    build = _BY_CODE.get(problem.code)
    if build is not None:
        try:
            return build({"runId": run_id, "held": fence, "detail": problem.detail, **problem.facts})
        except (KeyError, TypeError, ValueError):
            pass  # a fact is missing: the code and the text are still worth raising
    if problem.status == 401:
        return Unauthenticated(problem.detail, code=problem.code)
    if problem.status == 403 and not problem.code.startswith("http_"):  # of this service, not of a proxy before it
        return NotPermitted(problem.detail, code=problem.code, scope=problem.facts.get("scope"))
    if problem.status in (400, 413, 415, 422):
        return InvalidRequest(problem.detail, code=problem.code)
    return ServerProblem(problem.status, code=problem.code, detail=problem.detail)


_BY_CODE: Final[Mapping[str, Callable[[Mapping[str, Any]], RunwireError]]] = {
    AuthUnavailable.code: lambda p: AuthUnavailable(p["detail"]),
    RunNotFound.code: lambda p: RunNotFound(p["runId"]),
    UnknownAgent.code: lambda p: UnknownAgent(p["agent"], known=tuple(p["known"])),
    StartConflict.code: lambda p: StartConflict(p["runId"], by=p.get("by", "the runId or the Idempotency-Key")),
    RunClosed.code: lambda p: RunClosed(p["runId"], state=p["state"], last_seq=int(p["lastSeq"])),
    FenceLost.code: lambda p: FenceLost(p["runId"], held=p["held"], current=None, last_seq=int(p["lastSeq"])),
    SeqConflict.code: lambda p: SeqConflict(p["runId"], expected=int(p["ifSeq"]), actual=int(p["lastSeq"])),
    IllegalAppend.code: lambda p: IllegalAppend(p["runId"], p["detail"]),
    StorageUnavailable.code: lambda p: StorageUnavailable(p["runId"], p["detail"]),
    PartitionMissing.code: lambda p: PartitionMissing(p["runId"], p["detail"]),
    AppendError.code: lambda p: AppendError(p["runId"], p["detail"]),
    CursorPastTail.code: lambda p: CursorPastTail(p["runId"], cursor=int(p["cursor"]), last_seq=int(p["lastSeq"])),
    CursorExpired.code: lambda p: CursorExpired(p["runId"], earliest_seq=int(p["earliestSeq"])),
    DatabaseUnavailable.code: lambda p: DatabaseUnavailable(p["detail"]),
    ArchiveUnavailable.code: lambda p: ArchiveUnavailable(p["detail"]),
    RunStillOpen.code: lambda p: RunStillOpen(p["runId"], state=p["state"]),
}
