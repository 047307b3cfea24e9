"""Bodies that are too large to be held whole: read piece by piece, each in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from runwire.clock import monotonic
from runwire.errors import ArtifactTooLarge, RequestTimedOut
from runwire.server.connections import Connection, ConnectionLimits

_SLOWEST_BYTES_PER_S: Final = (1 << 20) / 60


async def pieces_of(request: web.Request, *, at_most: int) -> AsyncIterator[bytes]:
    """The body as it comes, `at_most` bytes of it: each piece within the time of a whole small body, and all of it at
    a mebibyte a minute or faster. Raises RequestTimedOut, ArtifactTooLarge and aiohttp's own errors.
    """
    protocol = request.protocol
    body_s = protocol.among.limits.body_s if isinstance(protocol, Connection) else ConnectionLimits().body_s
    until = monotonic() + body_s + at_most / _SLOWEST_BYTES_PER_S
    size = 0
    while True:
        try:
            async with asyncio.timeout(min(body_s, until - monotonic())):
                piece = await request.content.readany()
        except TimeoutError:
            if isinstance(protocol, Connection):
                protocol.among.body_late()
            raise RequestTimedOut("The body did not arrive in time.") from None
        if not piece:
            return
        size += len(piece)
        if size > at_most:
            raise ArtifactTooLarge(at_most)
        yield piece
