"""A way to PostgreSQL on which notifications get lost, and nothing else, as behind a pooler in transaction mode."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import parse_qs, urlsplit

_HEAD: Final = 5
_NOTIFICATION: Final = ord("A")


class Way:
    """While it is `muffled`, no notification comes through. `dsn` leads to the same database by it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = ""
        self.muffled = True
        self.connects = 0
        self._upstream = dsn
        self._handlers: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Way]:
        parts = urlsplit(self._upstream)
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.dsn = f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}?sslmode=disable"
        try:
            yield self
        finally:
            server.close()
            for task in tuple(self._handlers):
                task.cancel()
            await asyncio.gather(*self._handlers, return_exceptions=True)
            await server.wait_closed()

    def _accept(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        self.connects += 1
        task = asyncio.create_task(self._join(client_in, client_out), name="muffled connection")
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)

    async def _join(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        query = parse_qs(urlsplit(self._upstream).query)
        server_in, server_out = await asyncio.open_unix_connection(f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}")
        try:
            ways = {
                asyncio.ensure_future(self._carry(client_in, server_out)),
                asyncio.ensure_future(self._muffle(server_in, client_out)),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            for writer in (client_out, server_out):
                writer.transport.abort()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                sink.write(data)

    async def _muffle(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Message by message: a byte that says its kind, and its length with these four bytes."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await source.readexactly(_HEAD)
                body = await source.readexactly(int.from_bytes(head[1:], "big") - 4)
                if not (self.muffled and head[0] == _NOTIFICATION):
                    sink.write(head + body)
