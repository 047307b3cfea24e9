"""A TCP proxy that can be unkind: it stands between two parts of the service and delays, throttles, mutes or cuts."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

CHUNK = 65_536
RESET = struct.pack("ii", 1, 0)  # linger for no time: close sends RST


@dataclass(frozen=True, slots=True)
class Toxic:
    """The harm done to bytes on their way. `mute`: they vanish, and nobody is told, as with a pulled cable."""

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = 0.0
    mute: bool = False


def together(toxics: Sequence[Toxic]) -> Toxic:
    """The sum of several toxics."""
    return Toxic(
        sum(toxic.latency_s for toxic in toxics),
        sum(toxic.jitter_s for toxic in toxics),
        min((toxic.bytes_per_s for toxic in toxics if toxic.bytes_per_s), default=0.0),
        any(toxic.mute for toxic in toxics),
    )


class Proxy:
    """Listens on a port of its own while it is entered by `proxying`; `upstream` may change at any time."""

    def __init__(self, upstream_port: int, *, upstream_path: str | None = None) -> None:
        """`upstream_path`: a Unix socket, instead of the port."""
        self.upstream_port = upstream_port
        self._upstream_path = upstream_path
        self.port = 0
        self._toxics: list[Toxic] = []
        self._toxic = together(())
        self._rng = random.Random(upstream_port)
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._handlers: set[asyncio.Task[None]] = set()

    @contextmanager
    def toxic(self, toxic: Toxic) -> Iterator[None]:
        """Inside the block all bytes suffer it, beside what else there is. Connections that lost bytes to a mute are
        reset afterwards: nothing ever follows what was lost.
        """
        self._toxics.append(toxic)
        self._toxic = together(self._toxics)
        try:
            yield
        finally:
            self._toxics.remove(toxic)
            self._toxic = together(self._toxics)
            if toxic.mute:
                self.reset()

    def reset(self) -> int:
        """Cuts every connection with RST, to both sides. Returns how many."""
        cut = len(self._pairs)
        for pair in tuple(self._pairs):
            for writer in pair:
                _reset(writer)
        return cut

    def accept(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        """Takes over a new connection."""
        task = asyncio.create_task(self._serve(client_in, client_out), name="proxied connection")
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)

    async def close(self) -> None:
        for task in tuple(self._handlers):
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        try:
            await self._carry(client_in, client_out)
        except OSError:
            _reset(client_out)

    async def _carry(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        if self._upstream_path is not None:
            server_in, server_out = await asyncio.open_unix_connection(self._upstream_path)
        else:
            server_in, server_out = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        pair = (client_out, server_out)
        self._pairs.add(pair)
        ways = [
            asyncio.ensure_future(self._pump(client_in, server_out)),
            asyncio.ensure_future(self._pump(server_in, client_out)),
        ]
        try:
            await asyncio.gather(*ways)
        finally:
            self._pairs.discard(pair)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for writer in pair:
                writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(CHUNK):
                toxic = self._toxic
                if toxic.mute:
                    continue
                if pause_s := toxic.latency_s + self._rng.uniform(0, toxic.jitter_s):
                    await asyncio.sleep(pause_s)
                if toxic.bytes_per_s:
                    await asyncio.sleep(len(data) / toxic.bytes_per_s)
                sink.write(data)
                await sink.drain()
            if sink.can_write_eof():
                sink.write_eof()
            return
        _reset(sink)


@asynccontextmanager
async def proxying(upstream_port: int = 0, *, upstream_path: str | None = None) -> AsyncIterator[Proxy]:
    proxy = Proxy(upstream_port, upstream_path=upstream_path)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0, backlog=1024)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.reset()
        await proxy.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    if (connection := writer.get_extra_info("socket")) is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
