"""HTTP and event streams as bytes on a socket: nothing between the service and what is asserted of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Head:
    status: int
    headers: Mapping[str, str]

    @property
    def chunked(self) -> bool:
        return self.headers.get("transfer-encoding") == "chunked"


@dataclass(frozen=True, slots=True)
class Block:
    """A block of an event stream: its fields by name, its comments apart."""

    fields: Mapping[str, str]
    comments: tuple[str, ...]


@dataclass(slots=True)
class Body:
    """Undoes the chunks and splits blocks. A block that is cut off in its middle does not count."""

    chunked: bool
    complete: bool = False
    """The sender said that this is the end (with chunks; else only the connection's end does)."""
    _raw: bytearray = field(default_factory=bytearray)
    _text: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[Block]:
        if not self.chunked:
            self._text += data
            return self._blocks()
        self._raw += data
        while (line_end := self._raw.find(b"\r\n")) >= 0:
            size = int(self._raw[:line_end], 16)
            end = line_end + 2 + size
            if len(self._raw) < end + 2:
                break
            assert not self.complete, f"bytes after the last chunk: {bytes(self._raw)!r}"
            assert self._raw[end : end + 2] == b"\r\n", "a chunk ends with CRLF"
            self.complete = size == 0
            self._text += self._raw[line_end + 2 : end]
            del self._raw[: end + 2]
        return self._blocks()

    @property
    def torn(self) -> bool:
        """There is part of a chunk or of a block that never came whole."""
        return bool(self._raw or self._text)

    def _blocks(self) -> list[Block]:
        *whole, rest = bytes(self._text).split(b"\n\n")
        self._text[:] = rest
        return [_block(text.decode("utf-8")) for text in whole]


def _block(text: str) -> Block:
    fields: dict[str, str] = {}
    comments = []
    for line in text.split("\n"):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            comments.append(value)
            continue
        assert name not in fields, f"two lines {name!r} in one block: {text!r}"
        fields[name] = value
    return Block(fields, tuple(comments))


@asynccontextmanager
async def sent(port: int, request: str) -> AsyncIterator[tuple[Head, asyncio.StreamReader]]:
    """The head of the answer, and the rest to read. The connection is cut at the end of the block.

    Raises OSError or EOFError when the other side is not there, or goes away.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request.encode("ascii"))
        status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        yield Head(int(status_line.split(" ")[1]), headers), reader
    finally:
        writer.transport.abort()


async def posted(port: int, path: str, body: object, *, key: str | None = None) -> tuple[int, Any]:
    """Status and JSON of the answer. Raises OSError or EOFError when there is none, or not all of it."""
    text = json.dumps(body)
    named = "" if key is None else f"Idempotency-Key: {key}\r\n"
    request = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n{named}"
        f"Content-Length: {len(text)}\r\n\r\n{text}"
    )
    async with sent(port, request) as (head, reader):
        return head.status, json.loads(await reader.readexactly(int(head.headers["content-length"])))
