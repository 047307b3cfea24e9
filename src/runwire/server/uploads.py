"""Bodies that are too large to be held whole: read piece by piece, each in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from runwire.clock import monotonic
from runwire.errors import ArtifactTooLarge, RequestTimedOut
from runwire.server.connections import Connection, ConnectionLimits

SLOWEST_BYTES_PER_S: Final = (1 << 20) / 60


class Pace:
    """The seconds for which a client may still keep us waiting: `window_s` at most, and more for each byte it sends."""

    def __init__(self, window_s: float) -> None:
        self.left_s = window_s
        self._window_s = window_s

    def took(self, waited_s: float, size: int) -> None:
        self.left_s = min(self._window_s, self.left_s - waited_s + size / SLOWEST_BYTES_PER_S)


async def pieces_of(request: web.Request, *, at_most: int) -> AsyncIterator[bytes]:
    """The body as it comes, `at_most` bytes of it, at a mebibyte a minute or faster. A client may pause, or be slower,
    for as long as a whole small body may take, and earns that time again with the bytes it sends. The time in which
    the pieces are taken is not its own. Raises RequestTimedOut, ArtifactTooLarge and aiohttp's own errors.
    """
    protocol = request.protocol
    body_s = protocol.among.limits.body_s if isinstance(protocol, Connection) else ConnectionLimits().body_s
    pace = Pace(body_s)
    size = 0
    while True:
        asked = monotonic()
        try:
            async with asyncio.timeout(pace.left_s):
                piece = await request.content.readany()
        except TimeoutError:
            if isinstance(protocol, Connection):
                protocol.among.body_late()
            raise RequestTimedOut("The body did not arrive in time.") from None
        if not piece:
            return
        pace.took(monotonic() - asked, len(piece))
        size += len(piece)
        if size > at_most:
            raise ArtifactTooLarge(at_most)
        yield piece
