"""A server that answers streams as it is told, connection by connection: late, twice, with gaps, or not at all."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

RETRY = b"retry: 1\n\n"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def event(seq: int, *, run_id: str = "r1") -> bytes:
    body = msgspec.json.encode(
        {
            "runId": run_id,
            "seq": seq,
            "ts": 1,
            "v": 1,
            "source": "outbox",
            "type": "DebugTrace",
            "fn": "a.b",
        }
    )
    return b"id: %d\ndata: %s\n\n" % (seq, body)


def events(first: int, last: int) -> bytes:
    return b"".join(event(seq) for seq in range(first, last + 1))


def end(last_seq: int, *, state: str = "finished") -> bytes:
    return b"event: end\ndata: " + msgspec.json.encode({"runId": "r1", "state": state, "lastSeq": last_seq}) + b"\n\n"


def problem(status: int, code: str, *, headers: Mapping[str, str] | None = None, **facts: Any) -> Answer:
    body = msgspec.json.encode({"title": "No.", "status": status, "code": code, "detail": "no", **facts})

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, content_type="application/problem+json", headers=headers)

    return answer


def plain(status: int, body: bytes = b"", *, content_type: str = "application/json") -> Answer:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body or None, content_type=content_type)

    return answer


def stream(
    *chunks: bytes, then: str = "close", retry: bytes = RETRY, pause_s: float = 0.0, encoding: str | None = None
) -> Answer:
    """SSE of these chunks, each written by itself, `pause_s` apart. `encoding` is that of a part's data.

    `then` is close, abort (a broken connection) or silence.
    """
    more = {} if encoding is None else {"Stream-SSE-Data-Encoding": encoding}

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **more})
        await response.prepare(request)
        for chunk in (retry, *chunks):
            if chunk:
                await response.write(chunk)
                await asyncio.sleep(pause_s)
        if then == "silence":
            await asyncio.Event().wait()
        if then == "abort":
            await asyncio.sleep(0.01)  # so that what was written has left
            assert request.transport is not None
            request.transport.abort()
        return response

    return answer


def hangs_up(*, after_s: float = 0.0) -> Answer:
    """Takes the request and closes the connection without a word."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        await asyncio.sleep(after_s)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return answer


@dataclass
class Crooked:
    """`seen` are the requests that came: (method, path, headers, body). A path left without answers gives 599."""

    url: str = ""
    answers: dict[str, deque[Answer]] = field(default_factory=dict)
    seen: list[tuple[str, str, Mapping[str, str], bytes]] = field(default_factory=list)
    _runner: web.AppRunner | None = None

    def will(self, path: str, *answers: Answer) -> None:
        self.answers.setdefault(path, deque()).extend(answers)

    def will_stream(self, *answers: Answer) -> None:
        self.will("/api/agents/runs/r1/stream", *answers)

    def cursors(self) -> list[str | None]:
        """The Last-Event-ID of each stream request; None without one, as the first has when it asks for all."""
        return [headers.get("Last-Event-ID") for _, path, headers, _ in self.seen if path.endswith("/stream")]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.path, request.headers.copy(), await request.read()))
        left = self.answers.get(request.path)
        return await left.popleft()(request) if left else web.Response(status=599, text="no answer is left")

    async def start(self) -> None:
        """Listens, on the same port as before if it was stopped."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", int(self.url.rpartition(":")[2] or 0)).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()


@asynccontextmanager
async def crooked_server() -> AsyncIterator[Crooked]:
    server = Crooked()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
