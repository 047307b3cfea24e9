"""Routes of runs: start, view, list, cancel, signal."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from runwire.errors import InvalidRequest
from runwire.model.run import checked_run_id
from runwire.orchestrate import RunControl, RunView, StartRequest
from runwire.server.auth import caller_of, check_run_id
from runwire.server.bodies import RunStateDocument, SendSignal, StartAccepted, StartRun, deep
from runwire.server.forwarded import prefix_of
from runwire.server.requests import (
    LIST_DEFAULT,
    decoded_body,
    filter_in,
    idempotency_key_in,
    limit_in,
    order_in,
    run_id_in,
)
from runwire.server.services import Services
from runwire.telemetry.traceparent import sampled_trace_id

RUNS: Final = "/api/agents/runs"
INPUT_DEPTH_MAX: Final = 100

_START: Final = msgspec.json.Decoder(StartRun)
_SIGNAL: Final = msgspec.json.Decoder(SendSignal)


class RunRoutes:
    def __init__(self, services: Services) -> None:
        self._control = services.control
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
        with self._spans.run_request(request.headers.get("traceparent"), route=RUNS) as span:
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
        return _accepted(await self._control_for(request).signal(run_id, body.name))

    def _control_for(self, request: web.Request) -> RunControl:
        return self._control.on_behalf_of(caller_of(request).tenant)


def json_response(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """`body` as JSON that nobody keeps, unless `headers` say so."""
    return web.Response(
        status=status,
        body=msgspec.json.encode(body),
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def _accepted(run: RunView) -> web.Response:
    return json_response(run, status=202)
