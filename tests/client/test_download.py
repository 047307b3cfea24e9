"""A download that breaks goes on where it was, and gives up when nothing comes any more."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from client.crooked import Answer, Crooked, crooked_server, hangs_up
from runwire.client import Client, ServerUnreachable, UnexpectedAnswer

PATH = "/api/agents/runs/r1/artifacts/1"
DATA = b"0123456789"
ETAG = f'"{hashlib.sha256(DATA).hexdigest()}"'


@pytest.fixture
async def server() -> AsyncIterator[Crooked]:
    async with crooked_server() as server:
        yield server


def sends(count: int, *, data: bytes = DATA) -> Answer:
    """So many bytes of what was asked for. Then the connection breaks, unless that is the rest."""

    async def answer(request: web.Request) -> web.StreamResponse:
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        response = web.StreamResponse(status=206 if start else 200, headers={"ETag": ETAG})
        response.content_length = len(data) - start
        await response.prepare(request)
        await response.write(data[start : start + count])
        if start + count < len(data):
            await asyncio.sleep(0.01)  # so that what was written has left
            assert request.transport is not None
            request.transport.abort()
        return response

    return answer


async def test_it_goes_on_at_the_byte_where_a_connection_broke(server: Crooked) -> None:
    server.will(PATH, sends(3), hangs_up(), sends(1), sends(99))
    async with Client(server.url, retry_s=20) as client:
        assert await client.artifact("r1", 1) == DATA
    asked = [headers.get("Range") for _, _, headers, _ in server.seen]
    assert asked == [None, "bytes=3-", "bytes=3-", "bytes=4-"]


async def test_a_download_that_never_gets_a_byte_further_is_given_up(server: Crooked) -> None:
    server.will(PATH, sends(4), *[sends(0)] * 1000)
    async with Client(server.url, retry_s=0.5) as client:
        with pytest.raises(ServerUnreachable):
            async with asyncio.timeout(60):
                await client.artifact("r1", 1)
    assert len(server.seen) < 30, "failures in a row need pauses between them"


async def test_the_patience_counts_from_the_last_byte(server: Crooked) -> None:
    server.will(PATH, *[sends(1)] * len(DATA))
    async with Client(server.url, retry_s=0) as client:
        assert [piece async for piece in client.artifact("r1", 1, patience_s=5)] == [DATA[n : n + 1] for n in range(10)]


async def test_bytes_that_are_not_those_of_the_artifact_are_refused(server: Crooked) -> None:
    server.will(PATH, sends(10, data=b"9876543210"))
    async with Client(server.url, retry_s=1) as client:
        with pytest.raises(UnexpectedAnswer):
            await client.artifact("r1", 1)
