"""Where a stream's bytes go: three functions of a transport, so that the stages know no web framework."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outlet:
    """One client's connection. The functions are called for every client and event: bind a transport's own.

    `write` takes bytes as they go over the wire and never blocks. `buffered` says how many bytes it still holds.
    `closing` says that nothing written will arrive. `chunked`: the body has HTTP/1.1's chunked framing, which the
    stream then writes itself; False where the connection's end is the body's end (HTTP/1.0).
    Nobody else may write between the prelude and the return of `Stream.run`.
    """

    write: Callable[[bytes], None]
    buffered: Callable[[], int]
    closing: Callable[[], bool]
    chunked: bool = True
