"""Where a stream's bytes go: three functions of a transport, so that the stages know no web framework."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from runwire.stream._sockets import handle, send_each
else:
    try:
        from runwire.stream._sockets import handle, send_each
    except ImportError:  # pragma: no cover  # not compiled, or not for this system: everything goes by the transports
        handle = send_each = None

__all__ = ["Outlet", "Writes", "Written", "handle", "send_each"]


@dataclass(frozen=True, slots=True)
class Outlet:
    """One client's connection. The functions are called for every client and event: bind a transport's own.

    `write` takes bytes as they go over the wire and never blocks. `buffered` says how many bytes it still holds.
    `closing` says that nothing written will arrive. `chunked`: the body has HTTP/1.1's chunked framing, which the
    stream then writes itself; False where the connection's end is the body's end (HTTP/1.0).
    `socket`: what Writes may write to instead while nothing is buffered; 0 where everything has to go by `write`.
    Nobody else may write between the prelude and the return of `Stream.run`.
    """

    write: Callable[[bytes], None]
    buffered: Callable[[], int]
    closing: Callable[[], bool]
    chunked: bool = True
    socket: int = 0

    @classmethod
    def of(cls, transport: asyncio.Transport, *, chunked: bool = True) -> Outlet:
        """A connection's, that is open."""
        write, buffered, closing = transport.write, transport.get_write_buffer_size, transport.is_closing
        return cls(write, buffered, closing, chunked, _socket(transport) if chunked else 0)


def _socket(transport: asyncio.Transport) -> int:
    socket = transport.get_extra_info("socket")
    if handle is None or socket is None or transport.get_extra_info("sslcontext") is not None:
        return 0
    try:
        return handle(socket.fileno())
    except OSError:
        return 0


class Written(Protocol):
    """Whose clients are written to."""

    def fell_short(self, client: Any, rest: bytes) -> None:
        """A client's socket did not take the rest of a piece."""


class Writes:
    """What is written to many clients before a turn of the event loop ends: to all their sockets by one call.

    Between `add` and `make` nothing else may be written to those clients.
    """

    __slots__ = ("_clients", "_pieces", "_sockets", "_whose")

    def __init__(self) -> None:
        self._whose: list[Written] = []
        self._clients: list[object] = []
        self._sockets: list[int] = []
        self._pieces: list[bytes] = []

    def add(self, whose: Written, data: bytes, clients: Mapping[Any, int]) -> None:
        """Has it written to each client's socket."""
        self._whose += [whose] * len(clients)
        self._clients += clients
        self._sockets += clients.values()
        self._pieces += [data] * len(clients)

    def make(self) -> None:
        """Makes them, and says who fell short."""
        if not self._clients:
            return
        whose, clients, sockets, pieces = self._whose, self._clients, self._sockets, self._pieces
        self._whose, self._clients, self._sockets, self._pieces = [], [], [], []
        for at, taken in send_each(sockets, pieces):
            whose[at].fell_short(clients[at], pieces[at][taken:])
