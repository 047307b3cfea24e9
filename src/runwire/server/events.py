"""Routes of a run's events: pages of them, and the appends of external orchestrators."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Final, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from runwire.errors import DatabaseFailed, InvalidRequest
from runwire.model.run import RunState
from runwire.orchestrate import ReceivedSignal
from runwire.server.auth import Access, Scope, caller_of
from runwire.server.bodies import AppendEvents, EventsAppended, EventsPage, SignalForRun
from runwire.server.parameters import FENCE, FROM_SEQ, IF_NONE_MATCH, LIMIT
from runwire.server.requests import decoded_body, fence_in, limit_in, run_id_in
from runwire.server.responses import json_response
from runwire.server.routes import BODY_ERRORS, RUN, RUN_ERRORS, Group, Route
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
        signals: list[SignalForRun] | UnsetType = UNSET
        if (appended.signals or body.signals_taken) and body.outcome is None:
            readable = Scope.CONTENT_READ in caller_of(request).scopes
            # The events are stored: after an error the caller would send them again. The next answer has the signals.
            with contextlib.suppress(DatabaseFailed):
                received = await self._external.signals(run_id, taken=body.signals_taken)
                signals = [_shown(signal, readable=readable) for signal in received]
        seqs = list(range(appended.first_seq, appended.last_seq + 1))
        return json_response(EventsAppended(seqs, appended.last_seq, appended.cancel_requested, signals))

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


def _shown(signal: ReceivedSignal, *, readable: bool) -> SignalForRun:
    data = UNSET if signal.data is None or not readable else msgspec.Raw(signal.data)
    withheld: Literal[True] | UnsetType = UNSET if signal.data is None or readable else True
    return SignalForRun(signal.n, signal.name, data, UNSET if signal.id is None else signal.id, withheld)


def _has(request: web.Request, etag: str) -> bool:
    """Whether If-None-Match names the page (RFC 9110, 13.1.2: compared weakly; `*` is any)."""
    return any(known.value in (etag, "*") for known in request.if_none_match or ())


EVENTS: Final = Group(
    EventRoutes,
    (
        Route(
            "GET",
            RUN + "/events",
            EventRoutes.page,
            Access(Scope.READ),
            "listEvents",
            "Published events in order.",
            "The page of a closed run has a strong ETag: it never changes.",
            query=(FROM_SEQ, LIMIT),
            headers=(IF_NONE_MATCH,),
            answer=EventsPage,
            answer_headers={"ETag": "Of a closed run's page."},
            others={304: "The client's copy of the page is current."},
            errors=(
                *RUN_ERRORS,
                "invalid_cursor",
                "invalid_limit",
                "cursor_past_tail",
                "cursor_expired",
                "archive_unavailable",
            ),
        ),
        Route(
            "POST",
            RUN + "/events",
            EventRoutes.append,
            Access(Scope.APPEND),
            "appendEvents",
            "The events are stored.",
            "For the external orchestrator of a run: appends a batch as a whole or not at all and renews the lease.",
            headers=(FENCE,),
            body=AppendEvents,
            examples={
                "begin": {"events": [{"type": "RunStarted"}, {"type": "NodeStarted", "name": "Classify"}], "ifSeq": 0},
                "heartbeat": {"events": []},
                "heartbeat that takes signals": {"events": [], "signalsTaken": 2},
                "end": {"events": [{"type": "RunFinished"}], "outcome": "finished"},
            },
            answer=EventsAppended,
            errors=(
                *BODY_ERRORS,
                *RUN_ERRORS,
                "missing_fence",
                "not_external",
                "run_closed",
                "fence_stale",
                "seq_conflict",
                "illegal_append",
                "illegal_batch",
                "reserved_fn",
                "batch_too_large",
                "storage_unavailable",
                "partition_missing",
            ),
        ),
    ),
)
