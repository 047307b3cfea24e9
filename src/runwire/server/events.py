"""Routes of a run's events: pages of them, and the appends of external orchestrators."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
from aiohttp import web

from runwire.errors import InvalidRequest
from runwire.model.run import RunState
from runwire.server.auth import caller_of
from runwire.server.bodies import AppendEvents, EventsAppended, EventsPage
from runwire.server.requests import decoded_body, fence_in, limit_in, run_id_in
from runwire.server.runs import json_response
from runwire.server.services import Services
from runwire.stream import parse_cursor

PAGE_DEFAULT: Final = 100

_APPEND: Final = msgspec.json.Decoder(AppendEvents)


class EventRoutes:
    def __init__(self, services: Services) -> None:
        self._external = services.external
        self._reader = services.reader
        self._batch_max = services.settings.batch_max_events
        self._page_max = services.settings.page_max_events

    async def append(self, request: web.Request) -> web.Response:
        run_id = run_id_in(request)
        fence = fence_in(request)
        body = await decoded_body(request, _APPEND)
        if (tenant := caller_of(request).tenant) is not None:  # the log itself knows runs, not whose they are
            await self._reader.on_behalf_of(tenant).position(run_id)
        if len(body.events) > self._batch_max:
            raise InvalidRequest(f"a batch has at most {self._batch_max} events", code="batch_too_large")
        appended = await self._external.append(
            run_id,
            body.events,
            fence=fence,
            if_seq=body.if_seq,
            outcome=None if body.outcome is None else RunState(body.outcome),
            requested_by=request.headers.get("traceparent"),
        )
        return json_response(
            EventsAppended(
                list(range(appended.first_seq, appended.last_seq + 1)), appended.last_seq, appended.cancel_requested
            )
        )

    async def page(self, request: web.Request) -> web.Response:
        run_id = run_id_in(request)
        after = parse_cursor(from_seq=request.query.get("fromSeq")).seq
        limit = limit_in(request, default=PAGE_DEFAULT, at_most=self._page_max)
        reader = self._reader.on_behalf_of(caller_of(request).tenant)
        page = await reader.page(run_id, after=after, limit=limit)
        body = msgspec.json.encode(EventsPage([event.on_wire(run_id) for event in page.events], page.has_more))
        if not page.closed:
            return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})
        etag = hashlib.sha256(body).hexdigest()[:32]
        headers = {"Cache-Control": "private, no-cache", "ETag": f'"{etag}"'}
        if _has(request, etag):
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type="application/json", headers=headers)


def _has(request: web.Request, etag: str) -> bool:
    """Whether If-None-Match names the page (RFC 9110, 13.1.2: compared weakly; `*` is any)."""
    return any(known.value in (etag, "*") for known in request.if_none_match or ())
