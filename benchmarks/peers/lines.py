"""Connections that carry one append at a time, as lean as Python has them, so that the peer is what is measured."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import cast

from benchmarks.peers import load

Encode = Callable[[str, str], bytes]
"""Of a run and an event: the bytes of the request."""


class Line(asyncio.Protocol):
    """One connection. `whole` says whether what has come is an answer; it raises when the peer refused."""

    def __init__(self, whole: Callable[[bytes], bool]) -> None:
        self._whole = whole
        self._got = b""
        self._answer: asyncio.Future[None] | None = None
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)  # uvloop's has no such base

    def data_received(self, data: bytes) -> None:
        self._got += data
        try:
            if not self._whole(self._got):
                return
        except RuntimeError as refused:
            self._settle(refused)
            return
        self._got = b""
        self._settle(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle(exc or ConnectionError("the peer closed a connection"))

    async def ask(self, request: bytes) -> None:
        """Returns when it was answered."""
        assert self.transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        await self._answer

    def _settle(self, problem: Exception | None) -> None:
        if self._answer is None or self._answer.done():
            return
        if problem is None:
            self._answer.set_result(None)
        else:
            self._answer.set_exception(problem)


@asynccontextmanager
async def lines(port: int, count: int, *, encode: Encode, whole: Callable[[bytes], bool]) -> AsyncIterator[load.Append]:
    """A function that appends over `count` connections and waits while none is free."""
    loop = asyncio.get_running_loop()
    free: asyncio.LifoQueue[Line] = asyncio.LifoQueue()
    for _ in range(count):
        _, line = await loop.create_connection(lambda: Line(whole), "127.0.0.1", port)
        free.put_nowait(line)

    async def append(run_id: str, event: str) -> None:
        line = await free.get()
        await line.ask(encode(run_id, event))
        free.put_nowait(line)

    try:
        yield append
    finally:
        while not free.empty():
            line = free.get_nowait()
            if line.transport is not None:
                line.transport.abort()


def http_answered(got: bytes) -> bool:
    """Whether it is a whole answer of HTTP/1.1 with a length; RuntimeError unless it is a 2xx."""
    head, end, body = got.partition(b"\r\n\r\n")
    if not end:
        return False
    if not head.startswith(b"HTTP/1.1 2"):
        raise RuntimeError(got.decode(errors="replace"))
    _, stated, length = head.lower().partition(b"content-length:")
    return len(body) >= int(length.split(b"\r\n")[0]) if stated else True  # a 204 says none


def http_post(path: str, body: str, *, content_type: str) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


class OverLines:
    """The part of a peer that appends: over connections to `append_port`, one append under way on each."""

    append_port: int

    def encode(self, run_id: str, event: str) -> bytes:
        raise NotImplementedError

    def answered(self, got: bytes) -> bool:
        return http_answered(got)

    async def count(self, prefix: str, runs: int, *, callers: int, events: int) -> None:
        async with self._lines(callers) as append:
            await load.count(append, prefix, runs, callers=callers, events=events)

    async def rate(self, prefix: str, runs: int, *, rate: float, seconds: float) -> int:
        async with self._lines(64) as append:
            return await load.rate(append, prefix, runs, per_s=rate, seconds=seconds)

    def _lines(self, count: int) -> AbstractAsyncContextManager[load.Append]:
        return lines(self.append_port, count, encode=self.encode, whole=self.answered)
