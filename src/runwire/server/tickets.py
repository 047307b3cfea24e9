"""The route that issues a stream ticket, for an EventSource, whose only credential is its URL."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from runwire.errors import RunNotFound
from runwire.server.auth import Access, Scope, caller_of
from runwire.server.bodies import StreamTicket
from runwire.server.parameters import SELECTOR
from runwire.server.requests import run_id_in, selector_in
from runwire.server.responses import json_response
from runwire.server.routes import MANY_STREAM, RUN, RUN_ERRORS, Group, Route
from runwire.server.services import Services


class TicketRoutes:
    def __init__(self, services: Services) -> None:
        self._reader = services.reader
        self._tickets = services.gate.tickets
        self._many = services.many

    async def issue(self, request: web.Request) -> web.Response:
        run_id = run_id_in(request)
        caller = caller_of(request)
        await self._reader.on_behalf_of(caller.tenant).position(run_id)
        ticket, expires_at = self._tickets.issue(run_id, caller=caller)
        return json_response(StreamTicket(ticket, expires_at))

    async def issue_many(self, request: web.Request) -> web.Response:
        selector = selector_in(request, runs_max=self._many.runs_max)
        caller = caller_of(request)
        reader = self._reader.on_behalf_of(caller.tenant)
        if selector.runs:
            found = await reader.positions(selector.runs)
            for run_id in selector.runs:
                if run_id not in found:
                    raise RunNotFound(run_id)
        ticket, expires_at = self._tickets.issue(selector.subject, caller=caller)
        return json_response(StreamTicket(ticket, expires_at))


TICKETS: Final = Group(
    TicketRoutes,
    (
        Route(
            "POST",
            RUN + "/stream-ticket",
            TicketRoutes.issue,
            Access(Scope.READ),
            "issueStreamTicket",
            "A ticket for the run's stream.",
            "For an EventSource, which cannot send headers: open the stream with `?ticket=` before the ticket expires. "
            "An open stream outlives its ticket. To connect again later, request a new ticket.",
            answer=StreamTicket,
            errors=RUN_ERRORS,
        ),
        Route(
            "POST",
            MANY_STREAM + "-ticket",
            TicketRoutes.issue_many,
            Access(Scope.READ),
            "issueManyRunsTicket",
            "A ticket for the stream of these runs.",
            "The same for `/api/agents/stream`, with just these parameters. Runs that join later are covered.",
            query=SELECTOR,
            answer=StreamTicket,
            errors=(*RUN_ERRORS, "invalid_selector", "invalid_session", "invalid_labels"),
        ),
    ),
)
