"""Routes of the admin listener: liveness, readiness, metrics."""

from __future__ import annotations

import hmac
from typing import Final

from aiohttp import web

from runwire.errors import Unauthenticated
from runwire.server.auth.caller import PUBLIC
from runwire.server.responses import json_response
from runwire.server.routes import Group, Route
from runwire.server.services import AdminServices, Readiness


class AdminRoutes:
    def __init__(self, services: AdminServices) -> None:
        self._metrics = services.metrics
        self._readiness = services.readiness
        self._token = services.token

    async def healthz(self, _request: web.Request) -> web.Response:
        """200 as long as the event loop runs. Restart a process by this route, not by /readyz."""
        return json_response({"status": "ok"})

    async def readyz(self, _request: web.Request) -> web.Response:
        found = await self._readiness()
        return json_response(found, status=200 if found.ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """Raises Unauthenticated when an admin token is set and the request does not carry it."""
        self._check(request)
        body, content_type = self._metrics.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    def _check(self, request: web.Request) -> None:
        if self._token is None:
            return
        given = request.headers.get("Authorization")
        if given is None:
            raise Unauthenticated("The request needs the admin token.", code="credentials_missing")
        scheme, _, shown = given.partition(" ")
        right = hmac.compare_digest(shown.strip().encode(errors="replace"), self._token.encode())
        if scheme.lower() != "bearer" or not right:
            raise Unauthenticated("This is not the admin token.", code="credentials_invalid")


HEALTH: Final = Group(
    AdminRoutes,
    (
        Route(
            "GET",
            "/healthz",
            AdminRoutes.healthz,
            PUBLIC,
            "isAlive",
            "The process is alive.",
            errors=("host_refused", "internal"),
        ),
        Route(
            "GET",
            "/readyz",
            AdminRoutes.readyz,
            PUBLIC,
            "isReady",
            "The process can take traffic.",
            "Includes ports and roles. With 503, `ready` is false: the process starts, drains, or lacks its database.",
            answer=Readiness,
            others={503: "The process should get no traffic. The body is the same."},
            errors=("host_refused", "internal"),
        ),
        Route(
            "GET",
            "/metrics",
            AdminRoutes.metrics,
            PUBLIC,
            "getMetrics",
            "Metrics for Prometheus.",
            "OpenMetrics with exemplars when `Accept` asks for it, else the text format.",
            media="text/plain",
            errors=("credentials_missing", "credentials_invalid", "host_refused", "internal"),
        ),
    ),
)
