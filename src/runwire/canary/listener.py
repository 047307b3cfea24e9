"""The canary's own listener: its metrics, and whether it lives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from runwire.server.listener import listening
from runwire.telemetry.exposition import Exposition


@asynccontextmanager
async def metrics_listener(out: Exposition, *, host: str, port: int) -> AsyncIterator[int]:
    """Serves `/metrics` and `/healthz` inside the block; gives the port, which the system chooses for 0.

    Raises OSError if it is taken.
    """

    async def metrics(request: web.Request) -> web.Response:
        body, content_type = out.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    async def healthz(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    async with listening(app, host=host, port=port) as listens_at:
        yield listens_at
