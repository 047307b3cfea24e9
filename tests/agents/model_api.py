"""An OpenAI-compatible API whose model says what a test has written down, and pauses where the test says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Asks:
    """A piece of an answer: a part of a call of a tool."""

    name: str | None = None
    arguments: str = ""


Piece: TypeAlias = str | Asks | bytes | asyncio.Event
"""Words; a call; bytes as they are; an event to wait for."""


@dataclass
class ModelApi:
    """A running API. The answer to each request is the next of `answers`. The last one stays."""

    url: str = ""
    answers: list[Sequence[Piece]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    status: int = 200

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("Authorization"))
        if self.status != 200:
            return web.Response(status=self.status, text="canary", headers={"Location": "/elsewhere"})
        pieces = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": hello\n\n")
        for piece in pieces:
            if isinstance(piece, asyncio.Event):
                await piece.wait()
            elif isinstance(piece, bytes):
                await response.write(piece)
            else:
                await response.write(_event(piece))
        if not isinstance(pieces[-1], bytes):
            await response.write(b"data: [DONE]\n\n")
        return response


def _event(piece: str | Asks) -> bytes:
    if isinstance(piece, str):
        delta: dict[str, Any] = {"content": piece}
    else:
        function = {"arguments": piece.arguments} | ({} if piece.name is None else {"name": piece.name})
        delta = {"tool_calls": [{"index": 0, "function": function}]}
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}]})}\n\n".encode()


@asynccontextmanager
async def model_api() -> AsyncIterator[ModelApi]:
    """The API on a free port of 127.0.0.1."""
    api = ModelApi()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", api.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        api.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield api
    finally:
        await runner.cleanup()
