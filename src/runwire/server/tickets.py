"""The route that issues a stream ticket, for an EventSource, whose only credential is its URL."""

from __future__ import annotations

from aiohttp import web

from runwire.server.auth import Tickets, caller_of
from runwire.server.bodies import StreamTicket
from runwire.server.requests import run_id_in
from runwire.server.runs import json_response
from runwire.server.services import Services


class TicketRoutes:
    def __init__(self, services: Services, tickets: Tickets) -> None:
        self._reader = services.reader
        self._tickets = tickets

    async def issue(self, request: web.Request) -> web.Response:
        run_id = run_id_in(request)
        caller = caller_of(request)
        await self._reader.on_behalf_of(caller.tenant).position(run_id)
        ticket, expires_at = self._tickets.issue(run_id, caller=caller)
        return json_response(StreamTicket(ticket, expires_at))
