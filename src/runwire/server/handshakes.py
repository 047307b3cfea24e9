"""TLS handshakes of a listener. Each counts as a connection from its first moment, and makes room like an idle one.

    accepted --room, or a place among those who are refused--> handshake --done--> Connection
                                                                   |
                                                                   +--failed, late, gone, in the way--> closed

Only the event loop's thread calls anything here.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final

from runwire.server.connections import Connections

HANDSHAKE_S: Final = 10.0
"""Seconds that a TLS handshake may take."""
SCARCE: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Errors of `accept` that last until something else is closed."""
SCARCE_PAUSE_S: Final = 1.0

Made = Callable[[Callable[[], None]], asyncio.Protocol]
"""Makes the protocol of what was decrypted. It calls its argument when the handshake is done, before it is counted."""


class Handshakes:
    """Accepts the connections of listening sockets, and leads each through its handshake."""

    def __init__(self, among: Connections, tls: ssl.SSLContext, *, connection: Made) -> None:
        self._among = among
        self._tls = tls
        self._connection = connection
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._under_way: set[asyncio.Task[None]] = set()

    def take_over(self, server: asyncio.Server, *, backlog: int) -> None:
        """Listens in the place of a server that does not serve yet, and closes it."""
        for bound in server.sockets:
            listening = socket.socket(fileno=os.dup(bound.fileno()))
            listening.settimeout(0)
            listening.listen(backlog)
            self._sockets.append(listening)
            self._accepting.append(asyncio.create_task(self._accept(listening), name="accept TLS"))
        server.close()

    async def stop_accepting(self) -> None:
        """Closes the listening sockets, and ends the handshakes that are under way."""
        tasks = [*self._accepting, *self._under_way]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listening in self._sockets:
            listening.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:  # the client has gone already, or there are no descriptors
                await asyncio.sleep(SCARCE_PAUSE_S if error.errno in SCARCE else 0)
                continue
            handshake = Handshake(self._among, accepted)
            if handshake.admitted:
                handshake.task = asyncio.create_task(self._through(handshake), name="TLS handshake")
                self._under_way.add(handshake.task)
                handshake.task.add_done_callback(self._under_way.discard)
                handshake.task.add_done_callback(handshake.ended)
            else:
                accepted.close()

    async def _through(self, handshake: Handshake) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._connection(handshake.over),
                handshake.taken(),
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_S,
            )
        except (OSError, TimeoutError, RuntimeError):  # RuntimeError: the transport was closed before it was made
            return


class Handshake:
    """A connection until its handshake is over, as Connections knows it."""

    def __init__(self, among: Connections, accepted: socket.socket) -> None:
        self.task: asyncio.Task[None] | None = None
        self._among = among
        self._socket: socket.socket | None = accepted
        self._counted = among.made(self)
        # Without room it is told so, as others are, by a Connection. Only so many at a time are.
        self._refused = not self._counted and among.lingers()

    @property
    def admitted(self) -> bool:
        return self._counted or self._refused

    def taken(self) -> socket.socket:
        """The socket, which from here on belongs to its transport."""
        accepted, self._socket = self._socket, None
        assert accepted is not None  # noqa: S101  # it is taken once
        return accepted

    def over(self) -> None:
        """It is a connection now, or none."""
        if self._counted:
            self._counted = False
            self._among.lost(self, descriptors=1)
        if self._refused:
            self._refused = False
            self._among.parted()

    def ended(self, _task: asyncio.Task[None]) -> None:
        if self._socket is not None:  # it was in the way before it began
            self._socket.close()
        self.over()

    def abort(self) -> None:
        if self.task is not None:
            self.task.cancel()

    force_close = give_up_head = abort
