"""Collectors on real sockets: one that takes spans, and ways of being dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from crash.fleet import free_port

Manner = Literal["healthy", "refusing", "silent", "unavailable"]
_ANSWERS = {
    "healthy": b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n",
    "unavailable": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
}


@asynccontextmanager
async def collector(manner: Manner) -> AsyncIterator[str]:
    """Its address. `refusing`: nobody listens. `silent`: it takes connections and bytes and never answers."""
    port = free_port()
    if manner == "refusing":
        yield f"http://127.0.0.1:{port}"
        return
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            await _answer(reader, writer, _ANSWERS.get(manner))
        except (OSError, EOFError):
            pass  # the client is gone
        except asyncio.CancelledError:
            pass  # the test is over; streams report a handler that ends otherwise
        finally:
            talks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(talk, "127.0.0.1", port)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.close()
        for task in tuple(talks):
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes | None) -> None:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        (length,) = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        await reader.readexactly(length)
        if answer is not None:
            writer.write(answer)
            await writer.drain()
