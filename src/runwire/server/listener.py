"""A listening socket for an application, open for as long as the block is."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from aiohttp.http import HttpProcessingError

from runwire.errors import ConfigurationError

BACKLOG: Final = 4096
"""Connections that may wait to be accepted: clients of a restarted process all come back at once."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a listener shows: TLS 1.2 or later. Loaded again, it is what new connections get."""

    chain: Path
    key: Path
    context: ssl.SSLContext

    @classmethod
    def of(cls, chain: Path, key: Path) -> Certificate:
        """Raises ConfigurationError when the files are no certificate and its key."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        certificate = cls(chain, key, context)
        certificate.load()
        return certificate

    def load(self) -> None:
        """Raises ConfigurationError, and what was loaded before stays."""
        try:
            # On the side first: a chain without its key would take the place of a good one.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.chain, self.key, password="")
            self.context.load_cert_chain(self.chain, self.key, password="")  # else it asks the terminal
        except (OSError, ValueError) as error:
            problem = f"RUNWIRE_TLS_CERT: {self.chain} and {self.key} cannot be loaded: {type(error).__name__}"
            raise ConfigurationError((problem,)) from error


@asynccontextmanager
async def listening(
    app: web.Application,
    *,
    host: str,
    port: int,
    drain_s: float = 0.0,
    reuse_port: bool = False,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Serves `app` inside the block; gives the port, which the system chooses for 0. Raises OSError if it is taken.

    At the end nothing more is accepted, and requests under way have `drain_s` to end before they are cancelled.
    """
    runner = web.AppRunner(app, shutdown_timeout=drain_s, **server_options())
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=BACKLOG, reuse_port=reuse_port or None, ssl_context=tls)
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
