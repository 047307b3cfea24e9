"""Where a stream's bytes go: three functions of a transport, so that the stages know no web framework."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runwire.stream._sockets import send_each
else:
    try:
        from runwire.stream._sockets import send_each
    except ImportError:  # pragma: no cover  # installed without a C compiler: everything goes by the transports
        send_each = None


@dataclass(frozen=True, slots=True)
class Outlet:
    """One client's connection. The functions are called for every client and event: bind a transport's own.

    `write` takes bytes as they go over the wire and never blocks. `buffered` says how many bytes it still holds.
    `closing` says that nothing written will arrive. `chunked`: the body has HTTP/1.1's chunked framing, which the
    stream then writes itself; False where the connection's end is the body's end (HTTP/1.0).
    `socket`: the descriptor that may be written to instead while nothing is buffered and it is not closing; None where
    there is none, or what is written has to be encrypted.
    Nobody else may write between the prelude and the return of `Stream.run`.
    """

    write: Callable[[bytes], None]
    buffered: Callable[[], int]
    closing: Callable[[], bool]
    chunked: bool = True
    socket: int | None = None

    @classmethod
    def of(cls, transport: asyncio.Transport, *, chunked: bool = True) -> Outlet:
        """A connection's, that is open."""
        write, buffered, closing = transport.write, transport.get_write_buffer_size, transport.is_closing
        return cls(write, buffered, closing, chunked, _descriptor(transport))


def _descriptor(transport: asyncio.Transport) -> int | None:
    if send_each is None or transport.get_extra_info("sslcontext") is not None:
        return None
    socket = transport.get_extra_info("socket")
    return None if socket is None else int(socket.fileno())


class Writes:
    """What is written to many clients before a turn of the event loop ends: to all their sockets by one call.

    Between `add` and `make` nothing else may be written to those outlets.
    """

    __slots__ = ("_outlets", "_pieces", "_sockets")

    def __init__(self) -> None:
        self._outlets: list[Outlet] = []
        self._pieces: list[bytes] = []
        self._sockets: list[int] = []

    def add(self, data: bytes, outlets: Sequence[Outlet]) -> None:
        """Has it written to each: they have a socket, are not closing, and nothing is buffered."""
        self._outlets += outlets
        self._pieces += [data] * len(outlets)
        self._sockets += [outlet.socket for outlet in outlets if outlet.socket is not None]

    def make(self) -> None:
        """Makes them. What a socket does not take is its transport's, which meets an error again and deals with it."""
        if not self._outlets:
            return
        outlets, pieces, sockets = self._outlets, self._pieces, self._sockets
        self._outlets, self._pieces, self._sockets = [], [], []
        for at, taken in send_each(sockets, pieces):
            with contextlib.suppress(Exception):  # one client's broken transport is not the other clients' business
                outlets[at].write(pieces[at][taken:])
