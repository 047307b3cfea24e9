"""A listening socket for an application, open for as long as the block is."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http import HttpProcessingError

from runwire.errors import ConfigurationError
from runwire.server.connections import LINGER_S, Connection, Connections, noted
from runwire.server.handshakes import Handshakes
from runwire.server.problems import FIELD_MAX, LINE_MAX

BACKLOG: Final = 4096
"""Most connections that wait to be accepted, since all clients of a restarted process come back at once."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The certificate of a listener, for TLS 1.2 or later. New connections get it after it is loaded again."""

    chain: Path
    key: Path
    context: ssl.SSLContext

    @classmethod
    def of(cls, chain: Path, key: Path) -> Certificate:
        """Raises ConfigurationError unless the files are a certificate and its key."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        certificate = cls(chain, key, context)
        certificate.load()
        return certificate

    def load(self) -> None:
        """Loads the files again. Raises ConfigurationError and keeps the previous certificate if they are wrong."""
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
    connections: Connections | None = None,
) -> AsyncIterator[int]:
    """Serves `app` inside the block; gives the port, which the system chooses for 0. Raises OSError if it is taken.

    At the end nothing more is accepted, and requests under way have `drain_s` to end before they are cancelled.
    """
    among = connections or Connections()
    runner = web.AppRunner(app, shutdown_timeout=drain_s, access_log=None, handler_cancellation=True)
    await runner.setup()
    manager = cast("web.Server", runner.server)  # there is one once it is set up
    manager.request_handler = noted(manager.request_handler)
    options = {
        "access_log": None,
        "logger": _http_logger(),
        # Any client could cause much inflating on the event loop, so the service refuses compressed bodies.
        "auto_decompress": False,
        "lingering_time": LINGER_S,
        "max_line_size": LINE_MAX,
        "max_field_size": FIELD_MAX,
    }
    loop = asyncio.get_running_loop()

    def connection(made: Callable[[], None] | None = None) -> Connection:
        return Connection(manager, among, made=made, **options)

    handshakes = None if tls is None else Handshakes(among, tls, connection=connection)
    sweeps = loop.create_task(among.run(), name="connections")
    server: asyncio.Server | None = None
    try:
        server = await loop.create_server(
            connection,
            **_where(host, port, reuse_port=reuse_port),
            backlog=BACKLOG,
            start_serving=handshakes is None,
        )
        listens_at = int(server.sockets[0].getsockname()[1])
        if handshakes is not None:
            handshakes.take_over(server, backlog=BACKLOG)
        yield listens_at
    finally:
        if server is not None:
            server.close()
        if handshakes is not None:
            await handshakes.stop_accepting()
        sweeps.cancel()
        await asyncio.gather(sweeps, return_exceptions=True)
        await runner.cleanup()


def _where(host: str, port: int, *, reuse_port: bool) -> dict[str, Any]:
    """Where to listen, for `create_server`: at `::` for IPv4, too, which asyncio's own sockets are not."""
    if host == "::" and socket.has_dualstack_ipv6():
        both = socket.create_server(
            (host, port), family=socket.AF_INET6, dualstack_ipv6=True, reuse_port=reuse_port, backlog=BACKLOG
        )
        return {"sock": both}
    return {"host": host, "port": port, "reuse_port": reuse_port or None}


def _http_logger() -> logging.Logger:
    logger = logging.getLogger("runwire.server.http")
    logger.filters[:] = [_not_the_clients_fault]
    return logger


def _not_the_clients_fault(record: logging.LogRecord) -> bool:
    """Answers malformed HTTP with 400 without logging it, since any client could fill the log with it."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (HttpProcessingError, web.RequestPayloadError, ConnectionError, TimeoutError))
