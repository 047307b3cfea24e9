"""The client checks its arguments before it sends anything, quotes none in errors, and calls no other address."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from client.crooked import Answer, Crooked, crooked_server
from runwire.client import Client, UnexpectedAnswer
from runwire.errors import InvalidRequest

RUNS = "/api/agents/runs"
SECRET = "hunter2"  # noqa: S105  # stands for one


@pytest.fixture
async def server() -> AsyncIterator[Crooked]:
    async with crooked_server() as server:
        yield server


def moved(status: int, location: str) -> Answer:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": location})

    return answer


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@127.0.0.1:1",
        f"https://{SECRET}@example.org/",
        f"user:{SECRET}@127.0.0.1",
        f"http://127.0.0.1:1?token={SECRET}",
        f"http://127.0.0.1:1#{SECRET}",
        f"http://127.0.0.1:{SECRET}",
        f"http://127.0.0.1\n{SECRET}",
        f"http://[{SECRET}",
        "http://",
        "http://:80",
        "http://a..b",
        f"http://{'a' * 64}.example",
        "http://127.0.0.1:0",
        "http://127.0.0.1:99999",
        "localhost:8080",
        "",
    ],
)
def test_a_url_that_is_none_or_holds_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Client(url)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("https://example.org/agents/", "https://example.org/agents"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://bücher.example", "http://bücher.example"),
    ],
)
def test_a_prefix_may_come_before_the_api_s_paths(url: str, base: str) -> None:
    assert Client(url).base_url == base


@pytest.mark.parametrize(
    "token", [f"{SECRET}\n", f"{SECRET}\r\nX: y", f"{SECRET} {SECRET}", f"{SECRET}é", f"{SECRET}\0"]
)
async def test_a_token_that_no_header_can_carry_is_refused_without_repeating_it(server: Crooked, token: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Client(server.url, token=token)
    async with Client(server.url, token=lambda: token) as client:
        with pytest.raises(InvalidRequest) as renewed:
            await client.run("r1")
    for error in (refused.value, renewed.value):
        assert SECRET not in "".join(traceback.format_exception(error))
    assert server.seen == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_named_by_its_origin(server: Crooked, status: int) -> None:
    elsewhere = f"https://user:{SECRET}@other.example/login?next={SECRET}"
    server.will(RUNS, moved(status, elsewhere))
    server.will(f"{RUNS}/r1/cancel", moved(status, f"{server.url}{RUNS}"))
    server.will(f"{RUNS}/r1/stream", moved(status, elsewhere))
    async with Client(server.url, token=SECRET, retry_s=1) as client:
        for call in (client.start("triage"), client.cancel("r1"), anext(client.stream("r1"))):
            with pytest.raises(UnexpectedAnswer, match=f"HTTP {status}") as refused:
                await call
            assert SECRET not in str(refused.value)
    assert [(method, path) for method, path, *_ in server.seen] == [
        ("POST", RUNS),
        ("POST", f"{RUNS}/r1/cancel"),
        ("GET", f"{RUNS}/r1/stream"),
    ]


async def test_a_redirect_says_where_to(server: Crooked) -> None:
    server.will(RUNS, moved(308, "https://agents.example:8443/api"))
    async with Client(server.url) as client:
        with pytest.raises(UnexpectedAnswer, match=r"https://agents\.example:8443, "):
            await client.start("triage")
