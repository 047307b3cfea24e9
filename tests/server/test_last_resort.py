"""For any error of a handler, the client gets a problem and the log gets no text."""

from __future__ import annotations

import asyncio

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from runwire.errors import MigrationError
from runwire.server.problems import answer_expectation, answer_problems, problem_of

PROMPT = "what the user typed"


async def broken(request: web.Request) -> web.Response:
    errors: dict[str, Exception] = {
        "unforeseen": KeyError(PROMPT),
        "ours": MigrationError(PROMPT),
        "redirect": web.HTTPFound("/elsewhere"),
        "payload": web.RequestPayloadError(PROMPT),
    }
    raise errors[request.match_info["what"]]


@pytest.mark.parametrize(
    ("what", "status", "code"),
    [
        ("unforeseen", 500, "internal"),
        ("ours", 500, "internal"),
        ("redirect", 302, None),
        ("payload", 400, "malformed_body"),
    ],
)
async def test_every_error_becomes_an_answer_without_its_text(what: str, status: int, code: str | None) -> None:
    app = web.Application(middlewares=[answer_problems])
    app.router.add_get("/{what}", broken)
    with structlog.testing.capture_logs() as lines:
        async with TestClient(TestServer(app)) as client:
            response = await client.get(f"/{what}", allow_redirects=False)
            body = await response.text()
            assert response.status == status
            if code is not None:
                assert (await response.json())["code"] == code
    assert PROMPT not in body
    assert len(lines) == (1 if code == "internal" else 0)


def test_an_error_whose_code_is_not_public_is_internal() -> None:
    assert problem_of(MigrationError("x")).code == "internal"


async def echoed(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


@pytest.mark.parametrize(
    ("version", "expect", "answered"),
    [
        ("1.1", "100-continue", b"HTTP/1.1 100 Continue"),
        ("1.1", "miracles", b"HTTP/1.1 417 "),
        ("1.0", "miracles", b"HTTP/1.0 200 "),  # RFC 9110, 10.1.1: expectations of 1.0 are ignored
    ],
)
async def test_expectations_are_met_refused_or_ignored(version: str, expect: str, answered: bytes) -> None:
    app = web.Application(middlewares=[answer_problems])
    app.router.add_post("/", echoed, expect_handler=answer_expectation)
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = f"POST / HTTP/{version}\r\nHost: x\r\nExpect: {expect}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + b"hi")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(answered)
