"""Where spans go: a collector that takes them and keeps none."""

from __future__ import annotations

from aiohttp import web

from crash.fleet import free_port


class Collector:
    """Takes OTLP over HTTP; may be down for a while and comes back at the same port."""

    def __init__(self) -> None:
        self._port = free_port()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/traces", _taken)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()

    async def stop(self) -> None:
        """Open connections are closed, new ones refused."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


async def _taken(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(content_type="application/x-protobuf")
