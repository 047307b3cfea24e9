"""The route that shows the signals of a run: what it waits for, what it accepts, and what it has not taken."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web
from msgspec import UNSET

from runwire.orchestrate import SignalsOfRun
from runwire.server.auth import Access, Scope, caller_of
from runwire.server.bodies import AcceptedSignal, SignalsDocument, StoredSignal
from runwire.server.requests import run_id_in
from runwire.server.responses import json_response
from runwire.server.routes import RUN, RUN_ERRORS, Group, Route
from runwire.server.services import Services


class SignalRoutes:
    def __init__(self, services: Services) -> None:
        self._control = services.control

    async def list(self, request: web.Request) -> web.Response:
        caller = caller_of(request)
        control = self._control.on_behalf_of(caller.tenant)
        return json_response(
            _document(await control.signals(run_id_in(request), with_data=Scope.CONTENT_READ in caller.scopes))
        )


def _document(found: SignalsOfRun) -> SignalsDocument:
    return SignalsDocument(
        found.run.run_id,
        (found.run.waiting_for or "").split(),
        found.run.waiting_until,
        [
            AcceptedSignal(name, UNSET if kind is None else kind.json_schema() or UNSET)
            for name, kind in sorted(found.accepted.items())
        ],
        found.others,
        [
            StoredSignal(
                one.n,
                one.name,
                one.sent_at,
                UNSET if one.data is None else msgspec.Raw(one.data),
                UNSET if one.id is None else one.id,
                True if one.has_data and one.data is None else UNSET,
            )
            for one in found.stored
        ],
    )


SIGNALS: Final = Group(
    SignalRoutes,
    (
        Route(
            "GET",
            RUN + "/signals",
            SignalRoutes.list,
            Access(Scope.READ),
            "listSignals",
            "The signals that the run waits for, accepts, and has not taken.",
            "The data of signals is content: without the scope `content:read` it is withheld.",
            answer=SignalsDocument,
            errors=RUN_ERRORS,
        ),
    ),
)
