"""Connections that ask for nothing, or take their time, cost nobody else anything."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from runwire.assembly import Assembly
from runwire.stream.fanout.outlet import Socket
from server.calls import RUNS, Api, exchanged, streaming
from waiting import eventually

HEAD = b"Host: localhost\r\nContent-Type: application/json\r\n"


OF_A_STREAM = 1 if Socket is None else 2
"""Descriptors of a stream over HTTP/1.1: the sender, where it is compiled, has one of its own."""


def problem_in(answer: bytes) -> tuple[int, str]:
    """Status and code of an answer, which has to be a problem that ends its connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, answer[:300]
    assert b"connection: close" in head.lower() or head.startswith(b"HTTP/1.0"), head
    assert b"nosniff" in head, head
    assert b"no-store" in head, head
    problem = json.loads(body)
    assert problem["status"] == int(head.split(b" ")[1])
    return problem["status"], problem["code"]


async def opened(port: int, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    return reader, writer


async def counted(admin: httpx.AsyncClient, name: str) -> float:
    scrape = (await admin.get("/metrics")).text
    return float(next(line for line in scrape.splitlines() if line.startswith(name + " ")).rsplit(" ", 1)[1])


def port_of(service: Assembly) -> int:
    assert service.api_port is not None
    return service.api_port


class TestDeadlines:
    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {"http_head_s": 0.3, "http_body_s": 0.3, "http_idle_s": 0.3}

    async def test_half_heads_half_bodies_and_idle_connections_end_by_the_hundred(
        self, api: Api, admin: httpx.AsyncClient, service: Assembly
    ) -> None:
        port = port_of(service)
        post = b"POST " + RUNS.encode() + b" HTTP/1.1\r\n" + HEAD
        kinds = {
            "silent": b"",
            "half a head": b"GET / HTTP/1.1\r\nHost: loc",
            "half a body": post + b'Content-Length: 100\r\n\r\n{"agent"',
            "half a chunk": post + b'Transfer-Encoding: chunked\r\n\r\nff\r\n{"agent"',
            "kept alive": b"GET " + RUNS.encode() + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        }
        held = {name: await asyncio.gather(*(opened(port, data) for _ in range(60))) for name, data in kinds.items()}
        try:
            answers = {
                name: [await asyncio.wait_for(reader.read(), 10) for reader, _ in connections]
                for name, connections in held.items()
            }
        finally:
            for connections in held.values():
                for _, writer in connections:
                    writer.close()
        assert set(answers["silent"]) == {b""}
        for name in ("half a head", "half a body", "half a chunk"):
            assert {problem_in(answer) for answer in answers[name]} == {(408, "request_timeout")}, name
        assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers["kept alive"])
        cut = "runwire_http_connections_cut_total"
        assert await counted(admin, f'{cut}{{reason="head"}}') == 120
        assert await counted(admin, f'{cut}{{reason="body"}}') == 120
        assert await counted(admin, f'{cut}{{reason="idle"}}') >= 60
        await api.http.aclose()

        async def none_left() -> bool:
            return await counted(admin, "runwire_http_connections") == 0

        await eventually(none_left)

    async def test_a_client_that_takes_nothing_of_its_answer_is_cut(
        self, api: Api, admin: httpx.AsyncClient, service: Assembly
    ) -> None:
        fence = await api.external("long", leaseSeconds=600)
        fn = ".".join(["a" * 60] * 2)
        for _ in range(10):
            appended = await api.append("long", [{"type": "DebugTrace", "fn": fn}] * 1000, fence=fence)
            assert appended.status_code == 200
        await api.published("long", 10_001)
        request = f"GET {RUNS}/long/events?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port_of(service)))
        client.sendall(request * 30)

        async def cut() -> bool:
            return await counted(admin, 'runwire_http_connections_cut_total{reason="stalled"}') == 1

        try:
            await eventually(cut, within_s=10)
        finally:
            client.close()

    async def test_a_stream_outlives_the_deadlines_of_requests(self, api: Api) -> None:
        await api.external("watched", leaseSeconds=600)
        async with streaming(api, "watched") as stream:
            while "data" not in (await stream.frames(1))[0].fields:
                pass
            with pytest.raises(TimeoutError):
                await stream.frame(within_s=1.5)


class TestLimit:
    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {"http_connections_max": 20}

    async def test_idle_connections_make_room_for_those_that_ask(
        self, admin: httpx.AsyncClient, service: Assembly
    ) -> None:
        idle = [await opened(port_of(service)) for _ in range(100)]
        try:
            for _ in range(5):
                async with httpx.AsyncClient(base_url=service.url) as http:
                    assert (await http.get(RUNS)).status_code == 200
            assert await counted(admin, "runwire_http_connections_refused_total") == 0
            assert await counted(admin, 'runwire_http_connections_cut_total{reason="room"}') >= 80
            assert await counted(admin, "runwire_http_descriptors_max") == 20
            assert await counted(admin, "runwire_http_descriptors") <= 20
        finally:
            for _, writer in idle:
                writer.close()

    @pytest.mark.parametrize(("version", "more"), [("1.1", OF_A_STREAM), ("1.0", 1)])
    async def test_a_stream_counts_with_the_descriptors_it_has(
        self, api: Api, admin: httpx.AsyncClient, service: Assembly, version: str, more: int
    ) -> None:
        """A stream whose socket the sender does not use has one, as a stream has where descriptors are scarce."""
        await api.external("watched")
        await api.http.aclose()
        before = await counted(admin, "runwire_http_descriptors")
        request = f"GET {RUNS}/watched/stream HTTP/{version}\r\nHost: localhost\r\n\r\n".encode()
        reader, writer = await opened(port_of(service), request)
        try:
            await reader.readuntil(b"id: 0")

            async def is_counted() -> bool:
                return await counted(admin, "runwire_http_descriptors") == before + more

            await eventually(is_counted)
        finally:
            writer.close()

    async def test_when_all_are_busy_a_new_one_is_told_so_at_once_and_the_admin_listener_answers(
        self, api: Api, admin: httpx.AsyncClient, service: Assembly
    ) -> None:
        await api.external("watched")
        await api.http.aclose()
        request = f"GET {RUNS}/watched/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        async with AsyncExitStack() as held:
            for _ in range(20 // OF_A_STREAM):
                reader, writer = await opened(port_of(service), request)
                held.callback(writer.close)
                assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            answers = await asyncio.gather(
                *(exchanged(port_of(service), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") for _ in range(20))
            )
            assert {problem_in(answer) for answer in answers} == {(503, "too_many_connections")}
            assert all(b"Retry-After: 5" in answer for answer in answers)
            assert (await admin.get("/readyz")).status_code == 200
            assert await counted(admin, "runwire_http_connections_refused_total") == 20

        async def room_again() -> bool:
            answer = await exchanged(
                port_of(service), b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            return answer.startswith(b"HTTP/1.1 200 ")

        await eventually(room_again)

    async def test_idle_connections_of_the_admin_listener_make_room_too(
        self, admin: httpx.AsyncClient, service: Assembly
    ) -> None:
        idle = [await opened(service.admin_port) for _ in range(200)]
        try:
            assert (await admin.get("/healthz")).status_code == 200
        finally:
            for _, writer in idle:
                writer.close()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "x-gzip", "gzip, gzip", "GZIP", "identity, br"])
async def test_a_compressed_body_is_refused_as_it_is(service: Assembly, coding: str) -> None:
    body = gzip.compress(b"{}")
    head = f"POST {RUNS} HTTP/1.1\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n".encode()
    answer = await exchanged(port_of(service), head + HEAD + b"Connection: close\r\n\r\n" + body)
    assert problem_in(answer) == (415, "unsupported_encoding")
    assert b"Accept-Encoding: identity" in answer


async def test_a_body_that_is_said_to_be_as_it_is_is_taken(api: Api) -> None:
    answer = await api.http.post(RUNS, content=b"{}", headers={"Content-Encoding": "identity"})
    assert answer.status_code == 202


async def test_after_a_refusal_nobody_waits_for_the_rest_of_the_body(service: Assembly) -> None:
    request = f"POST {RUNS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 200000\r\n\r\n"
    answer = await exchanged(port_of(service), request.encode() + b"x" * 1000)
    assert problem_in(answer) == (415, "unsupported_media_type")


async def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(service: Assembly) -> None:
    answer = await exchanged(
        port_of(service), f"POST {RUNS} HTTP/1.1\r\nContent-Length: 9999999999\r\n".encode() + HEAD + b"\r\n{}"
    )
    assert problem_in(answer) == (413, "body_too_large")


BODY = b"Content-Length: 2\r\n"
MALFORMED: dict[str, tuple[bytes, tuple[int, str]]] = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\r\n\r\n", (400, "malformed_http")),
    "unknown method": (b"FOO / HTTP/1.1\r\nHost: localhost\r\n\r\n", (400, "malformed_http")),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, "malformed_http")),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", (400, "malformed_http")),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", (400, "malformed_http")),
    "two lengths": (b"POST / HTTP/1.1\r\n" + HEAD + BODY + BODY + b"\r\n{}", (400, "malformed_http")),
    "NUL in a header": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n", (400, "malformed_http")),
    "NUL in the address": (b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", (400, "malformed_http")),
    "absolute address without host": (b"GET http:/// HTTP/1.1\r\nHost: localhost\r\n\r\n", (400, "malformed_http")),
    "long address": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", (414, "uri_too_long")),
    "long header": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 9000 + b"\r\n\r\n", (431, "headers_too_large")),
    "many headers": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 300 + b"\r\n", (400, "malformed_http")),
    "expectation at a page": (
        b"GET /docs/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nExpect: x\r\n\r\n",
        (417, "expectation_failed"),
    ),
    "expectation at nothing": (
        b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nExpect: x\r\n\r\n",
        (417, "expectation_failed"),
    ),
    "CONNECT": (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", (404, "not_found")),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_whatever_is_malformed_is_answered_with_a_problem(service: Assembly, name: str) -> None:
    sent, expected = MALFORMED[name]
    assert problem_in(await exchanged(port_of(service), sent)) == expected


@pytest.mark.parametrize("header", ["Idempotency-Key", "Last-Event-ID", "Runwire-Fence", "Origin"])
async def test_a_header_of_one_value_may_not_come_twice(api: Api, header: str) -> None:
    answer = await api.http.get(RUNS, headers=[(header, "1"), (header, "2")])
    assert (answer.status_code, answer.json()["code"]) == (400, "duplicate_header")


@pytest.mark.parametrize("origin", ["http://[", "http://]", "http://[::1", "http://a:b", "null", "", "http://\xbc"])
async def test_an_origin_that_is_none_is_refused(api: Api, origin: str) -> None:
    answer = await api.http.post(RUNS, headers=[(b"Origin", origin.encode("latin-1"))])
    assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")
