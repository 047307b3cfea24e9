"""A proxy before a service that changes its answers: whole ones, or the frames of streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

Change = Callable[[bytes], bytes]


def unchanged(said: bytes) -> bytes:
    return said


class Liar:
    """`frame` changes each frame of a stream, `page` each page of events."""

    def __init__(self, service: str) -> None:
        self.url = ""
        self.frame: Change = unchanged
        self.page: Change = unchanged
        self._service = service

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name: value for name, value in request.headers.items() if name not in ("Host", "Content-Length")}
        target = f"{self._service}{request.path_qs}"
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(request.method, target, headers=headers, data=body) as told,
        ):
            if told.content_type == "text/event-stream":
                return await self._stream(request, told)
            said = await told.read()
            changed = self.page(said) if request.path.endswith("/events") and told.status == 200 else said
            return web.Response(status=told.status, body=changed, content_type=told.content_type)

    async def _stream(self, request: web.Request, told: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        rest = b""
        async for chunk in told.content.iter_any():
            *frames, rest = (rest + chunk).split(b"\n\n")
            await response.write(b"".join(self.frame(frame + b"\n\n") for frame in frames))
        return response


@asynccontextmanager
async def liar(service: str) -> AsyncIterator[Liar]:
    """One that tells the truth until it is given a change."""
    made = Liar(service)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()
