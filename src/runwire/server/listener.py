"""A listening socket for an application, open for as long as the block is."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web
from aiohttp.http import HttpProcessingError

BACKLOG: Final = 4096
"""Connections that may wait to be accepted: clients of a restarted process all come back at once."""


@asynccontextmanager
async def listening(
    app: web.Application, *, host: str, port: int, drain_s: float = 0.0, reuse_port: bool = False
) -> AsyncIterator[int]:
    """Serves `app` inside the block; gives the port, which the system chooses for 0. Raises OSError if it is taken.

    At the end nothing more is accepted, and requests under way have `drain_s` to end before they are cancelled.
    """
    runner = web.AppRunner(app, shutdown_timeout=drain_s, **server_options())
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=BACKLOG, reuse_port=reuse_port or None)
        await site.start()
        addresses: list[Any] = runner.addresses
        yield int(addresses[0][1])
    finally:
        await runner.cleanup()


def server_options() -> dict[str, Any]:
    """What aiohttp's server is told: no access log, and a lost connection cancels its handler."""
    return {"access_log": None, "handler_cancellation": True, "logger": _http_logger()}


def _http_logger() -> logging.Logger:
    logger = logging.getLogger("runwire.server.http")
    logger.filters[:] = [_not_the_clients_fault]
    return logger


def _not_the_clients_fault(record: logging.LogRecord) -> bool:
    """Malformed HTTP, in head or body, is answered with 400 and not logged: anybody could fill the log with it."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (HttpProcessingError, web.RequestPayloadError, ConnectionError, TimeoutError))
