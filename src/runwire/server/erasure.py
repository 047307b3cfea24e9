"""The route that erases everything that users saw of a run, and its state. The log has none of it, and stays."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from runwire.errors import RunStillOpen
from runwire.server.auth import Access, Scope, caller_of
from runwire.server.requests import run_id_in
from runwire.server.routes import RUN, RUN_ERRORS, Group, Route
from runwire.server.services import Services


class ErasureRoutes:
    def __init__(self, services: Services) -> None:
        self._control = services.control
        self._artifacts = services.content
        self._parts = services.parts

    async def erase(self, request: web.Request) -> web.Response:
        """Goes on where a request before it was interrupted. Nothing is stored for a run that has ended."""
        run_id, tenant = run_id_in(request), caller_of(request).tenant
        control = self._control.on_behalf_of(tenant)
        view = await control.view(run_id)
        if not view.state.terminal:
            raise RunStillOpen(run_id, state=view.state.value)
        artifacts, parts = self._artifacts.on_behalf_of(tenant), self._parts.on_behalf_of(tenant)
        for artifact in await artifacts.list(run_id):
            if artifact.erased_at is None:
                await artifacts.erase(run_id, artifact.n)
        for part in await parts.of_run(run_id):
            await parts.erase(run_id, part.n)
        await control.erase_state(run_id)
        return web.Response(status=204, headers={"Cache-Control": "no-store"})


ERASURE: Final = Group(
    ErasureRoutes,
    (
        Route(
            "DELETE",
            RUN + "/content",
            ErasureRoutes.erase,
            Access(Scope.CONTENT_ERASE),
            "eraseContent",
            "The run's content is gone.",
            "The bytes of its artifacts and parts, its state and its input. The log stays, with numbers and names. "
            "Erasing it again changes nothing. A run that has not ended is not erased.",
            status=204,
            errors=(*RUN_ERRORS, "run_open"),
        ),
    ),
)
