"""The response of a stream: headers by aiohttp, everything after the first bytes by the stream stage."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import HttpVersion11, web

from runwire.server.connections import hold_open
from runwire.stream import Outlet, Session
from runwire.stream.many import MergedSession
from runwire.telemetry.logs import LogEvent, get_logger

HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
LINGER_S: Final = 5.0
"""Seconds that a connection may take for its last bytes."""

_log = get_logger()


async def served(request: web.Request, session: Session | MergedSession) -> web.StreamResponse:
    """The response after the stream has ended. Its connection is closed then: a stream is all it was for."""
    chunked = request.version >= HttpVersion11
    response = web.StreamResponse(headers=HEADERS)
    response.force_close()
    if chunked:
        response.enable_chunked_encoding()
    try:
        await response.prepare(request)
        # Sent by aiohttp, so that the headers, which it may hold back until the first of the body, are out before.
        await response.write(session.prelude)
        response.headers.clear()  # they are out, and would be kept for as long as the stream: 2 KiB
    except ConnectionError:  # the client left before its stream began, which is no failure of ours
        return response
    transport = request.transport
    if transport is None:
        return response
    outlet = Outlet.of(transport, chunked=chunked)
    hold_open(request, descriptors=1 if outlet.socket is None else 2)  # where they are scarce, streams have one
    try:
        await session.run(outlet)
    except Exception as error:  # noqa: BLE001  # the headers are out: all that is left to say is that this is no end
        _log.error(LogEvent.REQUEST_FAILED, method="GET", route="stream", exc_info=error)
        transport.abort()
        return response
    finally:
        outlet.let_go()
    if transport.get_write_buffer_size():
        asyncio.get_running_loop().call_later(LINGER_S, transport.abort)
    return response
