"""A small web site with everything that makes exploring one hard. It counts what it is asked for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import escape

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer of a path. `drops` closes the connection instead, that many times; `hangs` never answers."""

    body: str | bytes = ""
    status: int = 200
    content_type: str = "text/html"
    location: str | None = None
    drops: int = 0
    hangs: bool = False


def page(*links: str, title: str = "", head: str = "") -> Reply:
    anchors = "".join(f'<a href="{escape(link)}">x</a>' for link in links)
    return Reply(f"<html><head><title>{title}</title>{head}</head><body>{anchors}</body></html>")


def redirect(to: str, *, status: int = 302) -> Reply:
    return Reply(status=status, location=to)


@dataclass
class Site:
    """A running site. `asked` are the paths requested, robots.txt left out, in order; `agents` who asked."""

    origin: str
    replies: Mapping[str, Reply]
    asked: list[str] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.asked)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path_qs
        self.agents.add(request.headers.get("User-Agent", ""))
        if path != "/robots.txt":
            self.asked.append(path)
        reply = self.replies.get(path, Reply("<title>Not here</title>", status=404))
        if reply.hangs:
            await asyncio.Event().wait()
        if 0 < self.counts[path] <= reply.drops:
            # Half an answer, so the client has its headers when the connection goes.
            response = web.StreamResponse(headers={"Content-Type": "text/html", "Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b"<title>half")
            assert request.transport is not None
            request.transport.abort()
            return response
        body = reply.body.encode() if isinstance(reply.body, str) else reply.body
        headers = {"Content-Type": reply.content_type}
        if reply.location is not None:
            headers["Location"] = reply.location
        return web.Response(body=body, status=reply.status, headers=headers)


@asynccontextmanager
async def serving(replies: Mapping[str, Reply]) -> AsyncIterator[Site]:
    """The site on a free port of 127.0.0.1."""
    site = Site("", replies)
    app = web.Application()
    app.router.add_get("/{path:.*}", site.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        listener = web.TCPSite(runner, "127.0.0.1", 0)
        await listener.start()
        port = runner.addresses[0][1]
        site.origin = f"http://127.0.0.1:{port}"
        yield site
    finally:
        await runner.cleanup()
