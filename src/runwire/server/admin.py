"""Routes of the admin listener: is it alive, should it get traffic, what does it measure."""

from __future__ import annotations

from aiohttp import web

from runwire.server.runs import json_response
from runwire.server.services import AdminServices


class AdminRoutes:
    def __init__(self, services: AdminServices) -> None:
        self._metrics = services.metrics
        self._readiness = services.readiness

    async def healthz(self, _request: web.Request) -> web.Response:
        """200 as long as the event loop turns: whoever restarts processes asks this, not /readyz."""
        return json_response({"status": "ok"})

    async def readyz(self, _request: web.Request) -> web.Response:
        found = await self._readiness()
        return json_response(found, status=200 if found.ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._metrics.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})
