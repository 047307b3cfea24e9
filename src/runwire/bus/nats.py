"""The bus between hosts: NATS, a subject per run. Messages carry their events, so streams seldom read PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import SlowConsumerError

from runwire.bus import Bus, Deliver, Published
from runwire.bus.nats_servers import nats_servers
from runwire.bus.nats_wire import PREFIX, decoded, encoded, subject_of
from runwire.bus.settings import BusSettings
from runwire.bus.subscribers import Subscribers, tell
from runwire.clock import pause_s, wait_until_set
from runwire.duties import Duty, Role
from runwire.errors import BusUnavailable
from runwire.process import Context
from runwire.telemetry.logs import LogEvent, get_logger

_FAILURES: Final = (NatsError, OSError, TimeoutError, AssertionError)
"""Errors of the NATS client; AssertionError when its connection is closed under it."""
_RETRY_FIRST_S: Final = 0.05
_RETRY_MAX_S: Final = 1.0
_PENDING_MESSAGES: Final = 4096
_PENDING_BYTES: Final = 8 * 1024 * 1024
_PING_S: Final = 2
_COALESCE_S: Final = 0.05

_log = get_logger()


@dataclass(frozen=True, slots=True)
class NatsOptions:
    """Addresses of the servers, and credentials for them. `credentials` is a `.creds` file; the rest is PEM files."""

    servers: tuple[str, ...]
    credentials: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    timeout_s: float = 3.0
    """Seconds for a connect, and for the server to confirm sent messages."""

    @classmethod
    def of(cls, settings: BusSettings) -> NatsOptions:
        """The options that the settings give; `bus` must be a NATS URL."""
        return cls(
            nats_servers(settings.bus or ""),
            credentials=settings.nats_credentials,
            tls_ca=settings.nats_tls_ca,
            tls_cert=settings.nats_tls_cert,
            tls_key=settings.nats_tls_key,
        )

    def tls(self) -> ssl.SSLContext | None:
        """The TLS context; None leaves TLS to the scheme of the URL and to the server. Raises OSError for files that
        are not there.
        """
        if self.tls_ca is None and self.tls_cert is None:
            return None
        context = ssl.create_default_context(cafile=self.tls_ca)
        if self.tls_cert is not None:
            context.load_cert_chain(self.tls_cert, self.tls_key)
        return context


class NatsLink:
    """One connection, which reopens after a loss until it succeeds. Run its loop as a task.

    The client library could reconnect by itself, but would then send its buffered messages, which another publisher may
    have published meanwhile. This class returns unsent messages to the caller.
    """

    def __init__(
        self,
        options: NatsOptions,
        *,
        name: str,
        on_open: Callable[[Client], Awaitable[None]] | None = None,
        on_connected: Callable[[], None] = lambda: None,
        on_slow: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_open` is awaited before the connection counts, `on_connected` called when it does.

        `on_slow` is called when messages were dropped because this process did not take them fast enough.
        """
        self._options = options
        self._name = name
        self._on_open = on_open
        self._on_connected = on_connected
        self._on_slow = on_slow
        self._client: Client | None = None
        self._inbox = f"{PREFIX}.echo.{secrets.token_hex(12)}"
        self._tokens = itertools.count()
        self._echoes: dict[bytes, asyncio.Future[None]] = {}
        self.connected = asyncio.Event()

    @property
    def client(self) -> Client:
        """The connection. Raises BusUnavailable when there is none at the moment."""
        if self._client is None:
            raise BusUnavailable("not connected to NATS")
        return self._client

    @property
    def server_version(self) -> str:
        """The largest message of the connected server, in bytes. Raises BusUnavailable."""
        version = self.client.connected_server_version
        return f"{version.major}.{version.minor}.{version.patch}"

    async def settled(self, client: Client) -> None:
        """Returns when the server has taken everything sent before. Raises BusUnavailable, at once when it goes away.

        It sends a message to itself, which cannot overtake the others; the library's `flush` can.
        """
        token = b"%d" % next(self._tokens)
        echo = self._echoes[token] = asyncio.get_running_loop().create_future()
        try:
            await client.publish(self._inbox, token)
            await asyncio.wait_for(echo, self._options.timeout_s)
        except _FAILURES as error:
            raise BusUnavailable(f"NATS did not answer: {type(error).__name__}") from error
        finally:
            self._echoes.pop(token, None)

    async def run(self) -> None:
        """Stays connected until cancelled."""
        failures = 0
        while True:
            lost = asyncio.Event()
            try:
                async with self._opened(lost) as client:
                    if failures:
                        _log.info(LogEvent.BUS_RECOVERED, bus="nats", failures=failures)
                    failures = 0
                    self._client = client
                    self.connected.set()
                    self._on_connected()
                    await lost.wait()
                error_type = "ConnectionLost"
            except (*_FAILURES, BusUnavailable) as error:
                error_type = type(error).__name__
            finally:
                self._client = None
                self.connected.clear()
                self._fail_echoes()
            failures += 1
            if failures & (failures - 1) == 0:  # 1, 2, 4, ...: an outage of an hour needs no thousand lines
                _log.warning(LogEvent.BUS_UNAVAILABLE, bus="nats", error_type=error_type, failures=failures)
            await asyncio.sleep(pause_s(failures, first_s=_RETRY_FIRST_S, longest_s=_RETRY_MAX_S))

    @asynccontextmanager
    async def _opened(self, lost: asyncio.Event) -> AsyncIterator[Client]:
        client = Client()

        async def failed(error: Exception) -> None:
            if isinstance(error, SlowConsumerError):
                self._on_slow()

        async def closed() -> None:
            lost.set()

        async def echoed(message: Msg) -> None:
            echo = self._echoes.get(message.data)
            if echo is not None and not echo.done():
                echo.set_result(None)

        options = self._options
        try:
            async with asyncio.timeout(2 * options.timeout_s):
                await client.connect(
                    random.choice(options.servers),  # noqa: S311  # spreads the load, and finds one that lives
                    name=self._name,
                    allow_reconnect=False,
                    connect_timeout=options.timeout_s,  # type: ignore[arg-type]  # it goes to asyncio as it is
                    error_cb=failed,
                    closed_cb=closed,
                    pending_size=0,
                    ping_interval=_PING_S,
                    max_outstanding_pings=2,
                    tls=options.tls(),
                    user_credentials=None if options.credentials is None else str(options.credentials),
                )
                await client.subscribe(self._inbox, cb=echoed)
                if self._on_open is not None:
                    await self._on_open(client)
                await self.settled(client)
            yield client
        finally:
            with contextlib.suppress(*_FAILURES):
                await asyncio.wait_for(client.close(), 1)

    def _fail_echoes(self) -> None:
        for echo in self._echoes.values():
            if not echo.done():
                echo.set_exception(ConnectionError("the connection to NATS was lost"))


class NatsBusWriter:
    """Sends a message to its run's subject. Run its `link`."""

    def __init__(self, options: NatsOptions, *, name: str = "runwire publisher") -> None:
        self.link = NatsLink(options, name=name)

    async def publish(self, messages: Sequence[Published]) -> None:
        """Returns when the server has accepted every message. An empty batch checks that the server is there."""
        client = self.link.client
        try:
            for message in messages:
                await client.publish(subject_of(message.run_id), encoded(message, at_most=client.max_payload))
        except _FAILURES as error:
            raise BusUnavailable(f"NATS did not take a message: {type(error).__name__}") from error
        await self.link.settled(client)


class NatsBusReader:
    """Routes messages to subscribers. Run its `link`; messages may be lost while that reconnects.

    `subscribe` registers with the server at once, or when the server is back. The queue of one
    subscriber is bounded. Further messages are dropped, as if the network had lost them.
    """

    def __init__(
        self,
        options: NatsOptions,
        *,
        on_missed: Callable[[], None] = lambda: None,
        name: str = "runwire streams",
        pending_messages: int = _PENDING_MESSAGES,
    ) -> None:
        """`on_missed` is called when messages may have been lost: after every (re)connect, and after dropping some."""
        self._subscribers = Subscribers()
        self._subscriptions: dict[str, Subscription | None] = {}
        self._pending_messages = pending_messages
        self._on_missed = on_missed
        self._missed_soon: asyncio.TimerHandle | None = None
        self.dropped = 0
        """How often messages were dropped. Each time, streams read the lost events from PostgreSQL."""
        self.link = NatsLink(
            options, name=name, on_open=self._subscribe_all, on_connected=on_missed, on_slow=self._tell_missed_soon
        )

    @asynccontextmanager
    async def subscribe(self, run_id: str, deliver: Deliver) -> AsyncIterator[None]:
        subject_of(run_id)
        with self._subscribers.subscribed(run_id, deliver):
            try:
                await self._listen_to(run_id)
                yield
            finally:
                if len(self._subscribers.of(run_id)) == 1:
                    await self._leave(run_id)

    async def _listen_to(self, run_id: str) -> None:
        with contextlib.suppress(BusUnavailable, *_FAILURES):  # then the next connection does it
            client = self.link.client
            if run_id not in self._subscriptions:
                await self._subscribe(client, run_id)
            await self.link.settled(client)

    async def _subscribe_all(self, client: Client) -> None:
        self._subscriptions.clear()
        for run_id in self._subscribers.run_ids():
            if run_id not in self._subscriptions:
                await self._subscribe(client, run_id)

    async def _subscribe(self, client: Client, run_id: str) -> None:
        self._subscriptions[run_id] = None  # before anything is awaited: nobody else does it, too
        try:
            self._subscriptions[run_id] = await client.subscribe(
                subject_of(run_id),
                cb=self._heard(run_id),
                pending_msgs_limit=self._pending_messages,
                pending_bytes_limit=_PENDING_BYTES,
            )
        except BaseException:
            self._subscriptions.pop(run_id, None)
            raise

    async def _leave(self, run_id: str) -> None:
        subscription = self._subscriptions.pop(run_id, None)
        if subscription is not None:
            with contextlib.suppress(*_FAILURES):
                await subscription.unsubscribe()

    def _heard(self, run_id: str) -> Callable[[Msg], Awaitable[None]]:
        async def heard(message: Msg) -> None:
            try:
                published = decoded(run_id, message.data)
            except ValueError as error:
                _log.warning(LogEvent.BUS_MESSAGE_REFUSED, run_id=run_id, error_type=type(error).__name__)
                self._tell_missed_soon()
                return
            for deliver in self._subscribers.of(run_id):
                tell(deliver, published)

        return heard

    def _tell_missed_soon(self) -> None:
        """Called once for many dropped messages, since each call costs a read from PostgreSQL."""
        self.dropped += 1
        if self._missed_soon is None:
            self._missed_soon = asyncio.get_running_loop().call_later(_COALESCE_S, self._tell_missed)

    def _tell_missed(self) -> None:
        self._missed_soon = None
        self._on_missed()


async def open_bus(context: Context) -> Bus:
    """The bus of a process, with the links that its roles need. A server that is away delays the start only briefly."""
    options = NatsOptions.of(context.group(BusSettings))
    name = f"{context.settings.worker_id}:{os.getpid()}"
    writer = NatsBusWriter(options, name=f"runwire publisher {name}")
    reader = NatsBusReader(options, on_missed=context.bus_missed, name=f"runwire streams {name}")
    for role, link in ((Role.PUBLISHER, writer.link), (Role.API, reader.link)):
        if role in context.roles:
            context.keep(context.phases.ground, Duty.BUS, f"bus of {role.value}", link.run)
            await wait_until_set(link.connected, within_s=options.timeout_s)
    return Bus(writer, reader)
