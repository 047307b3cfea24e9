"""Connections of a listener: how many there may be, and how long each may take.

A connection is in one of four states; only the event loop's thread moves it:

    new ----head complete----> busy ----response sent----> idle ----first byte----> head
                                ^                                                    |
                                +------------------------head complete---------------+

With TLS the handshake comes first, and counts as `new` (`handshakes`).

`new` and `head` last `head_s` at most, and `idle` lasts `idle_s`. `busy` is bounded by the deadline of its body
(`body_of`) and by that of a response whose client takes nothing; both are `body_s`. A stream has deadlines of its
own (`hold_open`). At the limit the connection that has waited for longest in another state makes room. When all
are busy, the new one is answered with 503.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast

from aiohttp import web

from runwire.clock import monotonic
from runwire.errors import RequestTimedOut
from runwire.server.problems import Problem, problem_of_http, problem_of_protocol, title_of
from runwire.server.security_headers import ALWAYS
from runwire.server.settings import DEFAULTS
from runwire.telemetry.metrics import ConnectionCut

RequestHandler: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

if TYPE_CHECKING:
    from prometheus_client import Counter

SWEEP_S: Final = 0.5
LINGER_S: Final = 2.0
"""Seconds for which a refused connection is still read, so that its client can read the answer (RFC 9112, 9.6)."""
PARTING_MAX: Final = 32
"""Most refused connections that linger at a time."""
BUSY_RETRY_S: Final = 5


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """`descriptors` is what connections may take: one each, and a stream two while there are enough. 0 is no limit."""

    descriptors: int = 0
    head_s: float = DEFAULTS.http_head_s
    body_s: float = DEFAULTS.http_body_s
    idle_s: float = DEFAULTS.http_idle_s


class Held(Protocol):
    """A connection, as those are that wait for it."""

    def abort(self) -> None:
        """Ends the connection at once, and drops unsent bytes."""

    def give_up_head(self) -> None:
        """Ends a connection whose request did not come in time."""

    def force_close(self) -> None:
        """Ends an idle connection."""


class Connections:
    """The connections of one listener. `refused` and `cut` (by reason) count; `sweep` is to be called every SWEEP_S."""

    def __init__(
        self,
        limits: ConnectionLimits = ConnectionLimits(),  # frozen
        *,
        refused: Counter | None = None,
        cut: Mapping[str, Counter] | None = None,
    ) -> None:
        self.limits = limits
        self.open = 0
        self.descriptors = 0
        self._refused = refused
        self._cuts = cut or {}
        self._parting = 0
        # Each in the order in which they came there, so that the oldest are found first.
        self._waiting: dict[Held, float] = {}
        self._heads: dict[Held, float] = {}
        self._stalled: dict[Held, float] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep(monotonic())

    def sweep(self, now: float) -> None:
        """One step: ends every connection whose time is over by the monotonic clock."""
        for connection in _older(self._heads, now - self.limits.head_s):
            self._cut(connection, ConnectionCut.HEAD)
            connection.give_up_head()
        for connection in _older(self._waiting, now - self.limits.idle_s):
            self._cut(connection, ConnectionCut.IDLE)
            connection.force_close()
        for connection in _older(self._stalled, now - self.limits.body_s):
            self._cut(connection, ConnectionCut.STALLED)
            connection.abort()

    # ------------------------------------------------------------------ told by connections

    def made(self, connection: Held) -> bool:
        """Takes in a connection; False where there is no room for it."""
        if 0 < self.limits.descriptors <= self.descriptors and not self._make_room():
            if self._refused is not None:
                self._refused.inc()
            return False
        self.open += 1
        self.descriptors += 1
        self._waiting[connection] = self._heads[connection] = monotonic()
        return True

    def lost(self, connection: Held, *, descriptors: int) -> None:
        self.open -= 1
        self.descriptors -= descriptors
        self._forget(connection)

    def held(self, *, more: int) -> None:
        """A stream has a connection, and takes so many descriptors more."""
        self.descriptors += more

    def head_began(self, connection: Held) -> None:
        self._heads.pop(connection, None)  # the last by its place, too
        self._heads[connection] = monotonic()

    def request_began(self, connection: Held) -> None:
        self._waiting.pop(connection, None)
        self._heads.pop(connection, None)

    def request_ended(self, connection: Held) -> None:
        self._waiting[connection] = monotonic()

    def stalls(self, connection: Held) -> None:
        """The client takes less than is sent to it, until `flows`."""
        self._stalled[connection] = monotonic()

    def flows(self, connection: Held) -> None:
        self._stalled.pop(connection, None)

    def body_late(self) -> None:
        """Counts a request whose body did not come in time."""
        self._count(ConnectionCut.BODY)

    def lingers(self) -> bool:
        """Whether one more connection may linger; `parted` gives its place back."""
        if self._parting >= PARTING_MAX:
            return False
        self._parting += 1
        return True

    def parted(self) -> None:
        self._parting -= 1

    # ------------------------------------------------------------------ inside

    def _make_room(self) -> bool:
        """Ends the connection that has waited for longest without asking for anything."""
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            return False
        self._cut(oldest, ConnectionCut.ROOM)
        oldest.abort()
        return True

    def _cut(self, connection: Held, reason: ConnectionCut) -> None:
        self._forget(connection)
        self._count(reason)

    def _forget(self, connection: Held) -> None:
        for kept in (self._waiting, self._heads, self._stalled):
            kept.pop(connection, None)

    def _count(self, reason: ConnectionCut) -> None:
        if (counter := self._cuts.get(reason)) is not None:
            counter.inc()


class Connection(web.RequestHandler):
    """One connection: aiohttp's, with deadlines, and with problems where aiohttp would answer in plain text."""

    __slots__ = ("_busy", "_descriptors", "_heading", "_held", "_lingering", "_made", "among")

    def __init__(
        self, manager: web.Server, among: Connections, *, made: Callable[[], None] | None = None, **options: Any
    ) -> None:
        """`made` is called when the connection is made, before it is counted."""
        super().__init__(manager, loop=asyncio.get_running_loop(), **options)
        self.among = among
        self._made = made
        self._descriptors = 0
        self._held = False
        self._busy = False
        self._heading = False
        self._lingering: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ told by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._made is not None:
            self._made()
            self._made = None
        if self.among.made(self):
            self._descriptors = 1
            super().connection_made(transport)
        else:
            self.transport = cast("asyncio.Transport", transport)
            self._part_with("too_many_connections", {"Retry-After": str(BUSY_RETRY_S)})

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self.among.parted()
        if self._descriptors:
            self.among.lost(self, descriptors=self._descriptors)
            self._descriptors = 0
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._lingering is not None:
            return
        if not self._busy and not self._heading and data:
            self._heading = True
            self.among.head_began(self)
        super().data_received(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._descriptors and not self._held:
            self.among.stalls(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.among.flows(self)

    # ------------------------------------------------------------------ told by the application

    def request_began(self) -> None:
        self._busy, self._heading = True, False
        self.among.request_began(self)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Sends the response. After one that left some of the body unread, the connection ends."""
        if isinstance(resp, web.HTTPException) and resp.status >= 400:  # of the router: no middleware saw it
            resp = problem_of_http(resp, request).response(instance=request.rel_url.raw_path)
        if not request.content.is_eof():
            resp.force_close()
        return await super().finish_response(request, resp, start_time)

    def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:
        """aiohttp calls this when a response was sent, and there is no access log."""
        if self._busy:
            self._busy = False
            self.among.request_ended(self)
        super().log_access(request, response, time)

    def hold(self, *, descriptors: int) -> None:
        """A stream has the connection from here on, with as many descriptors, and stalls by rules of its own."""
        if self._descriptors and not self._held:
            self._held = True
            self.among.held(more=descriptors - self._descriptors)
            self._descriptors = descriptors
            self.among.flows(self)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # quotes the request
    ) -> web.StreamResponse:
        """Answers bytes that are not HTTP, and errors that no middleware saw, and ends the connection."""
        if status >= 500:
            self.log_exception("Error handling request", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("a response has begun, so there is no other")
        response = problem_of_protocol(status, exc).response(instance="")
        response.headers.update(ALWAYS)
        response.force_close()
        return response

    # ------------------------------------------------------------------ ended by Connections

    def abort(self) -> None:
        """Ends the connection at once, and drops unsent bytes."""
        if self.transport is not None:
            self.transport.abort()

    def give_up_head(self) -> None:
        """Answers that the request came too slowly, if any of it came."""
        if self._heading:
            self.close()
            self._part_with("request_timeout", {})
        else:
            self.force_close()

    def _part_with(self, code: str, headers: Mapping[str, str]) -> None:
        """Answers with a problem and ends, without resetting what the client has not read yet."""
        transport = self.transport
        if transport is None:
            return
        transport.write(_written(code, headers))
        if transport.can_write_eof() and self.among.lingers():
            transport.write_eof()
            self._lingering = asyncio.get_running_loop().call_later(LINGER_S, transport.abort)
        else:
            transport.close()


def hold_open(request: web.Request, *, descriptors: int) -> None:
    """The connection of a stream, which has as many descriptors, is no longer subject to deadlines of requests."""
    if isinstance(request.protocol, Connection):
        request.protocol.hold(descriptors=descriptors)


async def body_of(request: web.Request) -> bytes:
    """The whole body, if it comes in time. Raises RequestTimedOut and aiohttp's own errors."""
    declared = request.content_length or 0
    if declared > request.client_max_size:
        raise web.HTTPRequestEntityTooLarge(request.client_max_size, declared)
    protocol = request.protocol
    if request.content.is_eof() or not isinstance(protocol, Connection):  # nearly always: it came with the head
        return await request.read()
    try:
        async with asyncio.timeout(protocol.among.limits.body_s):
            return await request.read()
    except TimeoutError:
        protocol.among.body_late()
        raise RequestTimedOut("The body did not arrive in time.") from None


def noted(handler: RequestHandler) -> RequestHandler:
    """The application's handler for a Connection. It is no coroutine, whose frame every open stream would keep."""

    def handle(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        if isinstance(request.protocol, Connection):
            request.protocol.request_began()
        return handler(request)

    return handle


def _older(since: Mapping[Held, float], than: float) -> list[Held]:
    return list(takewhile(lambda connection: since[connection] <= than, since))


def _written(code: str, more: Mapping[str, str]) -> bytes:
    """A problem as bytes, for answers without a request object of aiohttp."""
    response = Problem(code, title_of(code), headers=more).response(instance="")
    response.headers.update(ALWAYS)
    body = cast("bytes", response.body)
    lines = [f"HTTP/1.1 {response.status} {response.reason}", *(f"{n}: {v}" for n, v in response.headers.items())]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "Connection: close", "", ""])
    return head.encode("ascii") + body
