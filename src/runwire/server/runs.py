"""Routes of runs: start, view, list, cancel, signal."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from runwire.errors import InvalidRequest
from runwire.model.run import checked_run_id
from runwire.model.state_shape import deep
from runwire.observe import Diagnosis
from runwire.orchestrate import RunControl, RunPage, RunView, StartRequest
from runwire.server.auth import Access, Scope, caller_of, check_run_id
from runwire.server.bodies import RunStateDocument, SendSignal, StartAccepted, StartRun
from runwire.server.forwarded import prefix_of
from runwire.server.parameters import CURSOR, IDEMPOTENCY_KEY, LIMIT, RUN_FILTERS, SORT, TRACEPARENT
from runwire.server.requests import (
    LIST_DEFAULT,
    decoded_body,
    filter_in,
    idempotency_key_in,
    limit_in,
    order_in,
    run_id_in,
)
from runwire.server.responses import json_response
from runwire.server.routes import BODY_ERRORS, RUN, RUN_ERRORS, RUNS, Group, Route
from runwire.server.services import Services
from runwire.telemetry.traceparent import sampled_trace_id

INPUT_DEPTH_MAX: Final = 100

_START: Final = msgspec.json.Decoder(StartRun)
_SIGNAL: Final = msgspec.json.Decoder(SendSignal)


class RunRoutes:
    def __init__(self, services: Services) -> None:
        self._control = services.control
        self._many = services.many
        self._diagnostician = services.diagnostician
        self._spans = services.spans
        self._page_max = services.settings.page_max_events

    async def start(self, request: web.Request) -> web.Response:
        body = await decoded_body(request, _START, when_empty=b"{}")
        if deep(body.input, limit=INPUT_DEPTH_MAX):
            raise InvalidRequest(f"input is nested more than {INPUT_DEPTH_MAX} levels")
        idempotency_key = idempotency_key_in(request)
        if (tenant := caller_of(request).tenant) is not None and body.run_id is not None:
            check_run_id(checked_run_id(body.run_id), tenant=tenant)
        with self._spans.run_request(request.headers.get("traceparent"), route=RUNS, path=request.path) as span:
            started = await self._control_for(request).start(
                StartRequest(
                    agent=body.agent,
                    run_id=body.run_id,
                    input=body.input,
                    external=body.external,
                    lease_s=body.lease_seconds,
                    session=body.session,
                    labels=body.labels or {},
                    idempotency_key=idempotency_key,
                    traceparent=span.traceparent,
                    sampled=sampled_trace_id(span.traceparent) is not None,
                )
            )
            span.set("runwire.run_id", started.run_id)
            span.set("http.response.status_code", 202)
        if started.created and (body.session is not None or body.labels):
            self._many.look_soon()
        accepted = StartAccepted(run_id=started.run_id, fence=msgspec.UNSET if started.fence is None else started.fence)
        return json_response(accepted, status=202, headers={"Location": f"{prefix_of(request)}{RUNS}/{started.run_id}"})

    async def list(self, request: web.Request) -> web.Response:
        page = await self._control_for(request).page(
            filter_in(request),
            order=order_in(request),
            cursor=request.query.get("cursor"),
            limit=limit_in(request, default=LIST_DEFAULT, at_most=self._page_max),
        )
        return json_response(page)

    async def view(self, request: web.Request) -> web.Response:
        return json_response(await self._control_for(request).view(run_id_in(request)))

    async def state(self, request: web.Request) -> web.Response:
        stored = await self._control_for(request).state(run_id_in(request))
        return json_response(RunStateDocument(stored.run_id, stored.seq, msgspec.Raw(stored.state or b"null")))

    async def diagnosis(self, request: web.Request) -> web.Response:
        tenant = caller_of(request).tenant
        return json_response(await self._diagnostician.diagnose(run_id_in(request), tenant=tenant))

    async def cancel(self, request: web.Request) -> web.Response:
        return _accepted(await self._control_for(request).cancel(run_id_in(request)))

    async def signal(self, request: web.Request) -> web.Response:
        run_id = run_id_in(request)
        body = await decoded_body(request, _SIGNAL)
        data = None if body.data is msgspec.UNSET else bytes(body.data)
        return _accepted(await self._control_for(request).signal(run_id, body.name, data=data, signal_id=body.id))

    def _control_for(self, request: web.Request) -> RunControl:
        return self._control.on_behalf_of(caller_of(request).tenant)


def _accepted(run: RunView) -> web.Response:
    return json_response(run, status=202)


RUN_GROUP: Final = Group(
    RunRoutes,
    (
        Route(
            "POST",
            RUNS,
            RunRoutes.start,
            Access(Scope.START),
            "startRun",
            "The run is stored, and a worker will walk it.",
            "Starts a run. A repeat with the same `Idempotency-Key` or `runId` and body returns the same run.",
            headers=(IDEMPOTENCY_KEY, TRACEPARENT),
            body=StartRun,
            body_required=False,
            examples={
                "golden": {"agent": "golden"},
                "chat": {"agent": "golden", "session": "chat-17", "labels": {"team": "search", "env": "prod"}},
                "explore": {"agent": "explore", "input": {"site": "http://127.0.0.1:8080/docs/"}},
                "external": {"agent": "triage", "external": True, "leaseSeconds": 30},
            },
            status=202,
            answer=StartAccepted,
            answer_headers={"Location": "The run."},
            errors=(
                *BODY_ERRORS,
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
        ),
        Route(
            "GET",
            RUNS,
            RunRoutes.list,
            Access(Scope.READ),
            "listRuns",
            "Runs that match all filters, the latest first.",
            "A page begins where `cursor` says, so pages do not shift while runs start and end. A page may have fewer "
            "runs than `limit`, or none, and still a `nextCursor`: a page looks at a bounded number of runs.",
            query=(*RUN_FILTERS, SORT, CURSOR, LIMIT),
            answer=RunPage,
            errors=(
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
        ),
        Route(
            "GET",
            RUN,
            RunRoutes.view,
            Access(Scope.READ),
            "getRun",
            "The run's present state.",
            answer=RunView,
            errors=RUN_ERRORS,
        ),
        Route(
            "DELETE",
            RUN,
            RunRoutes.cancel,
            Access(Scope.CANCEL),
            "deleteRun",
            "The cancellation is stored.",
            "The same as POST to `/cancel`: the run and its events stay.",
            status=202,
            answer=RunView,
            errors=RUN_ERRORS,
        ),
        Route(
            "POST",
            RUN + "/cancel",
            RunRoutes.cancel,
            Access(Scope.CANCEL),
            "cancelRun",
            "The cancellation is stored.",
            "Idempotent. DebugTrace `cancelRequested` and the terminal event follow. A closed run does not change.",
            status=202,
            answer=RunView,
            errors=RUN_ERRORS,
        ),
        Route(
            "POST",
            RUN + "/signal",
            RunRoutes.signal,
            Access(Scope.SIGNAL),
            "signalRun",
            "The signal is stored.",
            "A run that waits for the signal goes on; one that does not yet will find it. Sent twice it counts once. "
            "With an `id` a repeat has the same answer, whatever became of the run.",
            body=SendSignal,
            examples={
                "approved": {"name": "approved"},
                "with data": {"name": "approved", "data": {"comment": "Go ahead."}, "id": "review-17"},
            },
            status=202,
            answer=RunView,
            errors=(
                *(*BODY_ERRORS, *RUN_ERRORS, "run_closed", "signal_not_awaited", "signal_conflict", "too_many_signals"),
                *("signal_too_large", "invalid_signal"),
            ),
        ),
        Route(
            "GET",
            RUN + "/state",
            RunRoutes.state,
            Access(Scope.STATE),
            "getRunState",
            "The state at the last checkpoint, or the one that the run begins with.",
            answer=RunStateDocument,
            errors=RUN_ERRORS,
        ),
        Route(
            "GET",
            RUN + "/diagnosis",
            RunRoutes.diagnosis,
            Access(Scope.OPS),
            "diagnoseRun",
            "The stage at which the run is stuck, if any, with evidence and a safe next step.",
            answer=Diagnosis,
            errors=RUN_ERRORS,
        ),
    ),
)
