"""A way to PostgreSQL that answers statements in its place: with an error of any SQLSTATE, as a server would send it.

It speaks enough of the protocol (version 3) to know the statement of a message, and to keep the client in step. After
an error it swallows the exchange up to its Sync, and answers the Sync as the server would. In the middle of a
transaction the client is told that it has failed; its ROLLBACK, if let through, goes to the server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

Refuse = Callable[[str], "str | None"]
"""The SQLSTATE to answer a statement with, or None to let it through. `!` behind it ends the connection, too."""


def nothing(_sql: str) -> None:
    return None


class Refusals:
    """`refuse` may be set at any time; `seen` are the statements by their first line."""

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        query = parse_qs(parts.query)
        self._socket = f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
        self._user, self._database = parts.username, parts.path
        self.refuse: Refuse = nothing
        self.seen: set[str] = set()
        self.refused = 0
        self._links: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """The DSN of the way."""
        server = await asyncio.start_server(self._join, "127.0.0.1", 0, backlog=256)
        port = server.sockets[0].getsockname()[1]
        try:
            yield f"postgresql://{self._user}@127.0.0.1:{port}{self._database}?sslmode=disable"
        finally:
            server.close()
            for link in tuple(self._links):
                link.cancel()
            await asyncio.gather(*self._links, return_exceptions=True)

    def _join(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        link = asyncio.create_task(_Link(self, client, to_client).run(self._socket), name="refusals")
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    def answer_to(self, sql: str) -> str | None:
        self.seen.add(named(sql))
        state = self.refuse(sql)
        self.refused += state is not None
        return state


def named(sql: str) -> str:
    """`runwire.publish.claim` of a statement of ours, else its beginning."""
    if sql.startswith("/* "):
        return sql[3:].partition(" */")[0]
    return " ".join(sql.split()[:4])


class _Link:
    def __init__(self, way: Refusals, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self._way = way
        self._client = client
        self._to_client = to_client
        self._prepared: dict[bytes, str] = {}
        self._status = b"I"

    async def run(self, socket: str) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            server, to_server = await asyncio.open_unix_connection(socket)
            answers = asyncio.create_task(self._pass_answers(server))
            try:
                await self._pass_requests(to_server)
            finally:
                answers.cancel()
                await asyncio.gather(answers, return_exceptions=True)
                to_server.transport.abort()
        self._to_client.transport.abort()

    async def _pass_requests(self, to_server: asyncio.StreamWriter) -> None:
        length = await self._client.readexactly(4)
        to_server.write(length + await self._client.readexactly(int.from_bytes(length) - 4))  # the start-up message
        swallowing = False
        while True:
            head = await self._client.readexactly(5)
            body = await self._client.readexactly(int.from_bytes(head[1:]) - 4)
            kind = head[:1]
            if swallowing:
                if kind == b"S":
                    swallowing = False
                    self._say_ready()
                continue
            sql = self._statement_of(kind, body)
            state = self._way.answer_to(sql) if sql is not None else None
            if state is None:
                to_server.write(head + body)
                continue
            fatal = state.endswith("!")
            self._say_error(state.rstrip("!"), "FATAL" if fatal else "ERROR")
            if fatal:
                self._to_client.close()
                return
            if self._status == b"T":
                self._status = b"E"
            swallowing = kind != b"Q"
            if not swallowing:
                self._say_ready()

    def _statement_of(self, kind: bytes, body: bytes) -> str | None:
        """The statement that the message has the server parse or run; None of all other messages."""
        if kind == b"Q":
            return body.rstrip(b"\x00").decode()
        if kind == b"P":
            name, sql, _ = body.split(b"\x00", 2)
            self._prepared[name] = sql.decode()
            return self._prepared[name]
        if kind == b"B":
            _, name, _ = body.split(b"\x00", 2)
            return self._prepared.get(name)
        return None

    async def _pass_answers(self, server: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await server.readexactly(5)
                body = await server.readexactly(int.from_bytes(head[1:]) - 4)
                if head[:1] == b"Z":
                    self._status = body
                self._to_client.write(head + body)
        self._to_client.close()

    def _say_error(self, sqlstate: str, severity: str) -> None:
        fields = b"".join(
            key + value.encode() + b"\x00"
            for key, value in ((b"S", severity), (b"V", severity), (b"C", sqlstate), (b"M", "refused on the way"))
        )
        self._say(b"E", fields + b"\x00")

    def _say_ready(self) -> None:
        self._say(b"Z", self._status)

    def _say(self, kind: bytes, body: bytes) -> None:
        self._to_client.write(kind + (len(body) + 4).to_bytes(4) + body)
