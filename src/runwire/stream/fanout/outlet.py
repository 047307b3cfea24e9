"""Where a client's bytes go: three functions of a transport, so that the stage knows no web framework."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runwire.stream.fanout._sockets import Batch, Socket
    from runwire.stream.fanout._sockets import Sender as NativeSender
else:
    try:
        from runwire.stream.fanout._sockets import Batch, Socket
        from runwire.stream.fanout._sockets import Sender as NativeSender
    except ImportError:  # pragma: no cover  # not compiled, or not for this system: transports send everything
        Batch = NativeSender = Socket = None

__all__ = ["Batch", "NativeSender", "Outlet", "Socket"]


@dataclass(slots=True)
class Outlet:
    """One client's connection. The stage calls the functions for every client and event: bind a transport's own.

    `write` takes bytes as they go over the wire and never blocks. `buffered` says how many bytes the transport still
    holds. `closing` says that nothing written will arrive. With `chunked` the stream writes HTTP/1.1's chunked framing;
    without it the connection's end is the body's end (HTTP/1.0).
    A sender may write to `socket` instead while nothing is buffered; None means that everything has to go by `write`.
    Nobody else may write between the prelude and the return of `Session.run`.
    """

    write: Callable[[bytes], None]
    buffered: Callable[[], int]
    closing: Callable[[], bool]
    chunked: bool = True
    socket: Socket | None = None

    @classmethod
    def of(cls, transport: asyncio.Transport, *, chunked: bool = True) -> Outlet:
        """The outlet of an open connection. Call `let_go` when the stream is over."""
        write, buffered, closing = transport.write, transport.get_write_buffer_size, transport.is_closing
        return cls(write, buffered, closing, chunked, _socket(transport) if chunked else None)

    def let_go(self) -> None:
        """From here on the transport alone has the connection, and may end it."""
        self.socket = None


def _socket(transport: asyncio.Transport) -> Socket | None:
    socket = transport.get_extra_info("socket")
    if Socket is None or socket is None or transport.get_extra_info("sslcontext") is not None:
        return None
    try:
        return Socket(socket.fileno())
    except OSError:  # the connection is closed by now, or descriptors are scarce: the transport has one
        return None
