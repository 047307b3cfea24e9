"""Where a stream's bytes go: three functions of a transport, so that the stages know no web framework."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runwire.stream._sockets import JOBS, Batch, Sender, Socket
else:
    try:
        from runwire.stream._sockets import JOBS, Batch, Sender, Socket
    except ImportError:  # pragma: no cover  # not compiled, or not for this system: everything goes by the transports
        JOBS = Batch = Sender = Socket = None

__all__ = ["JOBS", "Batch", "Outlet", "Sender", "Socket"]


@dataclass(slots=True)
class Outlet:
    """One client's connection. The functions are called for every client and event: bind a transport's own.

    `write` takes bytes as they go over the wire and never blocks. `buffered` says how many bytes it still holds.
    `closing` says that nothing written will arrive. `chunked`: the body has HTTP/1.1's chunked framing, which the
    stream then writes itself; False where the connection's end is the body's end (HTTP/1.0).
    `socket`: what Writes may write to instead while nothing is buffered; None where everything has to go by `write`.
    Nobody else may write between the prelude and the return of `Stream.run`.
    """

    write: Callable[[bytes], None]
    buffered: Callable[[], int]
    closing: Callable[[], bool]
    chunked: bool = True
    socket: Socket | None = None

    @classmethod
    def of(cls, transport: asyncio.Transport, *, chunked: bool = True) -> Outlet:
        """A connection's, that is open. To be let go of when the stream is over."""
        write, buffered, closing = transport.write, transport.get_write_buffer_size, transport.is_closing
        return cls(write, buffered, closing, chunked, _socket(transport) if chunked else None)

    def let_go(self) -> None:
        """The transport alone has the connection from here on, and may end it."""
        self.socket = None


def _socket(transport: asyncio.Transport) -> Socket | None:
    socket = transport.get_extra_info("socket")
    if Socket is None or socket is None or transport.get_extra_info("sslcontext") is not None:
        return None
    try:
        return Socket(socket.fileno())
    except OSError:  # closed by now, or no descriptor is left: the transport has one
        return None
