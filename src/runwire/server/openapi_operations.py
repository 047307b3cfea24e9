"""The operations of each route. A test compares this table with the routes the applications have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from runwire.server.auth.caller import PUBLIC, STREAM, Access, Scope

_RUN: Final = "/api/agents/runs/{runId}"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `answer` names the schema of the body, `media` its type."""

    method: str
    path: str
    operation_id: str
    summary: str
    description: str = ""
    parameters: tuple[str, ...] = ()
    body: str | None = None
    body_required: bool = True
    examples: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    answer: str | None = None
    media: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[int, str] = field(default_factory=dict)
    """Further statuses without a body, and what they mean."""
    problems: tuple[str, ...] = ()
    access: Access = PUBLIC

    @property
    def all_problems(self) -> tuple[str, ...]:
        """Its own codes and those of the gate."""
        return self.problems if self.access.scope is None else (*self.problems, *_GATE)

    def responses(self) -> dict[str, Any]:
        """The answers that are not problems, in OpenAPI's form."""
        schema = {"$ref": f"#/components/schemas/{self.answer}"} if self.answer else {}
        main: dict[str, Any] = {"description": self.summary, "content": {self.media: {"schema": schema}}}
        if self.headers:
            main["headers"] = {
                name: {"description": text, "schema": {"type": "string"}} for name, text in self.headers.items()
            }
        others = {str(status): {"description": text} for status, text in self.others.items()}
        return {str(self.status): main, **others}


_GATE: Final = (
    "credentials_missing",
    "credentials_invalid",
    "credentials_expired",
    "scope_missing",
    "origin_refused",
    "host_refused",
    "auth_unavailable",
)
_BODY: Final = (
    *("malformed_json", "malformed_body", "request_timeout", "body_too_large"),
    *("unsupported_media_type", "unsupported_encoding", "invalid_request"),
)
_OF_RUN: Final = ("invalid_run_id", "run_not_found", "too_many_requests", "database_unavailable", "internal")

API_OPERATIONS: Final = (
    Operation(
        "POST",
        "/api/agents/runs",
        "startRun",
        "The run is stored, and a worker will walk it.",
        "Starts a run. A repeat with the same `Idempotency-Key` or `runId` and body returns the same run.",
        parameters=("idempotencyKey", "traceparent"),
        body="StartRun",
        body_required=False,
        examples={
            "golden": {"agent": "golden"},
            "chat": {"agent": "golden", "session": "chat-17", "labels": {"team": "search", "env": "prod"}},
            "explore": {"agent": "explore", "input": {"site": "http://127.0.0.1:8080/docs/"}},
            "external": {"agent": "triage", "external": True, "leaseSeconds": 30},
        },
        status=202,
        answer="StartAccepted",
        headers={"Location": "The run."},
        problems=(
            *_BODY,
            "invalid_run_id",
            "invalid_session",
            "invalid_labels",
            "invalid_idempotency_key",
            "run_id_reserved",
            "start_conflict",
            "unknown_agent",
            "invalid_input",
            "too_many_requests",
            "too_many_runs",
            "database_unavailable",
            "internal",
        ),
        access=Access(Scope.START),
    ),
    Operation(
        "GET",
        "/api/agents/runs",
        "listRuns",
        "Runs that match all filters, the latest first.",
        "A page begins where `cursor` says, so pages do not shift while runs start and end. A page may have fewer runs "
        "than `limit`, or none, and still a `nextCursor`: a page looks at a bounded number of runs.",
        parameters=(
            *("state", "agent", "session", "label", "errorCode", "from", "until"),
            *("sort", "cursor", "limit"),
        ),
        answer="RunPage",
        problems=(
            "invalid_state",
            "invalid_agent",
            "invalid_session",
            "invalid_labels",
            "invalid_filter",
            "invalid_cursor",
            "invalid_limit",
            "too_many_requests",
            "database_unavailable",
            "read_timed_out",
            "internal",
        ),
        access=Access(Scope.READ),
    ),
    Operation(
        "GET",
        _RUN,
        "getRun",
        "The run's present state.",
        parameters=("runId",),
        answer="RunView",
        problems=_OF_RUN,
        access=Access(Scope.READ),
    ),
    Operation(
        "DELETE",
        _RUN,
        "deleteRun",
        "The cancellation is stored.",
        "The same as POST to `/cancel`: the run and its events stay.",
        parameters=("runId",),
        status=202,
        answer="RunView",
        problems=_OF_RUN,
        access=Access(Scope.CANCEL),
    ),
    Operation(
        "POST",
        _RUN + "/cancel",
        "cancelRun",
        "The cancellation is stored.",
        "Idempotent. DebugTrace `cancelRequested` and the terminal event follow. A closed run does not change.",
        parameters=("runId",),
        status=202,
        answer="RunView",
        problems=_OF_RUN,
        access=Access(Scope.CANCEL),
    ),
    Operation(
        "POST",
        _RUN + "/signal",
        "signalRun",
        "The signal is stored.",
        "A run that waits for the signal goes on; one that does not yet will find it. Sent twice it counts once.",
        parameters=("runId",),
        body="SendSignal",
        examples={"approved": {"name": "approved"}},
        status=202,
        answer="RunView",
        problems=(*_BODY, *_OF_RUN, "run_closed", "signal_not_taken", "too_many_signals"),
        access=Access(Scope.SIGNAL),
    ),
    Operation(
        "GET",
        _RUN + "/state",
        "getRunState",
        "The state at the last checkpoint.",
        parameters=("runId",),
        answer="RunStateDocument",
        problems=_OF_RUN,
        access=Access(Scope.STATE),
    ),
    Operation(
        "GET",
        _RUN + "/diagnosis",
        "diagnoseRun",
        "The stage at which the run is stuck, if any, with evidence and a safe next step.",
        parameters=("runId",),
        answer="Diagnosis",
        problems=_OF_RUN,
        access=Access(Scope.OPS),
    ),
    Operation(
        "GET",
        _RUN + "/events",
        "listEvents",
        "Published events in order.",
        "The page of a closed run has a strong ETag: it never changes.",
        parameters=("runId", "fromSeq", "limit", "ifNoneMatch"),
        answer="EventsPage",
        headers={"ETag": "Of a closed run's page."},
        others={304: "The client's copy of the page is current."},
        problems=(
            *_OF_RUN,
            "invalid_cursor",
            "invalid_limit",
            "cursor_past_tail",
            "cursor_expired",
            "archive_unavailable",
        ),
        access=Access(Scope.READ),
    ),
    Operation(
        "POST",
        _RUN + "/events",
        "appendEvents",
        "The events are stored.",
        "For the external orchestrator of a run: appends a batch as a whole or not at all and renews the lease.",
        parameters=("runId", "fence"),
        body="AppendEvents",
        examples={
            "begin": {"events": [{"type": "RunStarted"}, {"type": "NodeStarted", "name": "Classify"}], "ifSeq": 0},
            "heartbeat": {"events": []},
            "end": {"events": [{"type": "RunFinished"}], "outcome": "finished"},
        },
        answer="EventsAppended",
        problems=(
            *_BODY,
            *_OF_RUN,
            "missing_fence",
            "not_external",
            "run_closed",
            "fence_stale",
            "seq_conflict",
            "illegal_append",
            "illegal_batch",
            "batch_too_large",
            "storage_unavailable",
            "partition_missing",
        ),
        access=Access(Scope.APPEND),
    ),
    Operation(
        "POST",
        _RUN + "/stream-ticket",
        "issueStreamTicket",
        "A ticket for the run's stream.",
        "For an EventSource, which cannot send headers: open the stream with `?ticket=` before the ticket expires. "
        "An open stream outlives its ticket. To connect again later, request a new ticket.",
        parameters=("runId",),
        answer="StreamTicket",
        problems=_OF_RUN,
        access=Access(Scope.READ),
    ),
    Operation(
        "GET",
        _RUN + "/stream",
        "streamRun",
        "Server-sent events: the stored events after the cursor, then new ones, up to the terminal event.",
        "Per event `id: <seq>` and a `data:` line with an Event; after the terminal event one `event: end`.",
        parameters=("runId", "fromSeq", "lastEventId", "replay", "speed"),
        access=STREAM,
        media="text/event-stream",
        others={204: "The run is closed and the client has all its events."},
        problems=(
            *_OF_RUN,
            "invalid_cursor",
            "invalid_replay",
            "invalid_speed",
            "cursor_past_tail",
            "run_open",
            "cursor_expired",
            "too_many_streams",
            "too_many_own_streams",
            "too_many_replays",
            "archive_unavailable",
        ),
    ),
    Operation("GET", "/openapi.json", "getOpenapi", "This document."),
)

ADMIN_OPERATIONS: Final = (
    Operation("GET", "/healthz", "isAlive", "The process is alive.", problems=("internal",)),
    Operation(
        "GET",
        "/readyz",
        "isReady",
        "The process can take traffic.",
        "Includes ports and roles. With 503, `ready` is false: the process starts, drains, or lacks its database.",
        answer="Readiness",
        others={503: "The process should get no traffic. The body is the same."},
        problems=("internal",),
    ),
    Operation(
        "GET",
        "/metrics",
        "getMetrics",
        "Metrics for Prometheus.",
        "OpenMetrics with exemplars when `Accept` asks for it, else the text format.",
        media="text/plain",
        problems=("internal",),
    ),
    Operation("GET", "/openapi.json", "getOpenapi", "This document."),
)
