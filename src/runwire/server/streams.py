"""The route of a run's stream: headers by aiohttp, everything after the first bytes by the stream stage."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from runwire.errors import InvalidRequest
from runwire.server.admission import CLIENT
from runwire.server.auth import STREAM, caller_of
from runwire.server.mixed_streams import serve_mixed
from runwire.server.parameters import (
    FROM_SEQ,
    LAST_EVENT_ID,
    LAST_EVENT_ID_QUERY,
    MANY_EVENT_ID,
    MANY_EVENT_ID_QUERY,
    PARTS_NAMED,
    REPLAY,
    SELECTOR,
    SPEED,
)
from runwire.server.requests import run_id_in, selector_in
from runwire.server.revocations import Revocations
from runwire.server.routes import MANY_STREAM, RUN, RUN_ERRORS, Group, Route
from runwire.server.served import served
from runwire.server.services import Services
from runwire.stream import Cursor, NothingLeft, parse_cursor, parse_speed


class StreamRoutes:
    def __init__(self, services: Services) -> None:
        self._streams = services.streams
        self._many = services.many
        self._mixed = services.mixed
        self._admission = services.admission
        self._reader = services.reader
        self._revocations = Revocations(services.gate.stands)
        gate = services.gate
        self._of_content = Revocations(lambda key_id: gate.stands(key_id) and gate.shows_content(key_id))

    async def stream(self, request: web.Request) -> web.StreamResponse:
        run_id = run_id_in(request)
        caller = caller_of(request)
        if "parts" in request.query:
            with self._admission.stream(run_id, request[CLIENT]):
                return await serve_mixed(
                    request,
                    run_id,
                    caller=caller,
                    mixed=self._mixed,
                    reader=self._reader,
                    revocations=self._of_content,
                    client=_client_of(request),
                )
        cursor = _cursor_in(request)
        if caller.tenant is not None:  # all clients of a run share its watch, which knows no tenants
            await self._reader.on_behalf_of(caller.tenant).position(run_id)
        speed = _replay_speed(request)
        attached = (
            self._streams.attach(run_id, cursor=cursor, client=_client_of(request))
            if speed is None
            else self._streams.replay(run_id, cursor=cursor, speed=speed)
        )
        with self._admission.stream(run_id, request[CLIENT]):
            async with attached as session:
                if isinstance(session, NothingLeft):
                    return web.Response(status=204, headers={"Cache-Control": "no-store"})
                with self._revocations.watching(session, caller):
                    return await served(request, session)

    async def stream_many(self, request: web.Request) -> web.StreamResponse:
        selector = selector_in(request, runs_max=self._many.runs_max)
        caller = caller_of(request)
        event_id = request.headers.get("Last-Event-ID") or request.query.get("lastEventId")
        # Two tenants may have a session of the same name, or a label: neither takes the other's places.
        with self._admission.stream(f"{caller.tenant or ''}{selector.subject}", request[CLIENT]):
            async with self._many.attach(
                selector, last_event_id=event_id, tenant=caller.tenant, client=_client_of(request)
            ) as session:
                if isinstance(session, NothingLeft):
                    return web.Response(status=204, headers={"Cache-Control": "no-store"})
                with self._revocations.watching(session, caller):
                    return await served(request, session)


def _cursor_in(request: web.Request) -> Cursor:
    """The client's cursor. An event id, from the header or the query, wins over `fromSeq`. Raises InvalidRequest."""
    event_id = request.headers.get("Last-Event-ID") or request.query.get("lastEventId")
    return parse_cursor(from_seq=request.query.get("fromSeq"), last_event_id=event_id)


def _replay_speed(request: web.Request) -> float | None:
    """The speed of a replay; None where a stream is asked for. Raises InvalidRequest."""
    query = request.query
    if "replay" not in query and "speed" not in query:
        return None
    if query.get("replay") != "1":
        raise InvalidRequest("replay must be 1, and speed needs replay=1", code="invalid_replay")
    return parse_speed(query.get("speed"))


def _client_of(request: web.Request) -> str:
    """Tells clients apart as well as a server can: by address and browser, and by what they watch."""
    watched = "&".join(sorted(f"{name}={value}" for name, value in request.query.items() if name in _WATCHED))
    return f"{request[CLIENT]} {request.headers.get('User-Agent', '')[:200]} {request.path}?{watched}"


_WATCHED: Final = frozenset({"parts", "run", "session", "label"})
"""Parameters that say what a client watches. The others say from where, and by whose leave."""


STREAMS: Final = Group(
    StreamRoutes,
    (
        Route(
            "GET",
            RUN + "/stream",
            StreamRoutes.stream,
            STREAM,
            "streamRun",
            "Server-sent events: the stored events after the cursor, then new ones, up to the terminal event.",
            "Per event `id: <seq>` and a `data:` line with an Event; after the terminal event one `event: end`. "
            "With `parts` there are frames `event: part` between them, and every `id:` is opaque.",
            query=(FROM_SEQ, PARTS_NAMED, REPLAY, SPEED, LAST_EVENT_ID_QUERY),
            headers=(LAST_EVENT_ID,),
            head=False,
            media="text/event-stream",
            others={204: "The run is closed and the client has all its events."},
            errors=(
                *RUN_ERRORS,
                "invalid_cursor",
                "invalid_part_name",
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
        Route(
            "GET",
            MANY_STREAM,
            StreamRoutes.stream_many,
            STREAM,
            "streamManyRuns",
            "Server-sent events of many runs, each as in its own stream.",
            "`run` (repeated) names a list, `session` or `label` the runs that match, now or later. The `id:` of a "
            "block is opaque, and resumes all runs. Each run's end is an `event: end`; the stream of a list ends after "
            "the last.",
            query=(*SELECTOR, MANY_EVENT_ID_QUERY),
            headers=(MANY_EVENT_ID,),
            head=False,
            media="text/event-stream",
            others={204: "All runs of the list are closed, and the client has all their events."},
            errors=(
                *RUN_ERRORS,
                "invalid_selector",
                "invalid_session",
                "invalid_labels",
                "invalid_cursor",
                "cursor_past_tail",
                "checkpoint_gone",
                "too_many_streams",
                "too_many_own_streams",
            ),
        ),
    ),
)
