"""LISTEN/NOTIFY: hints between processes. Losing one costs latency, never an event."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from runwire.clock import wait_until_set
from runwire.db.connection import Connection, cut
from runwire.db.database import Database
from runwire.db.translation import translated
from runwire.duties import Duty
from runwire.errors import DatabaseFailed, DatabaseUnavailable

RUNS_CLAIMABLE = "runwire_claimable"
"""A run became claimable: it was started, signalled or handed over. Payload: its agent."""
RUNS_DIRTY = "runwire_dirty"
"""Runs have unpublished events. Payload: run ids, space-separated."""
SHARDS_FREE = "runwire_shards"
"""Publishers have joined, left or released shards. Payload: nothing of use."""
RUN_CANCELLED = "runwire_cancel"
"""Cancellation of runs was requested. Payload: run ids, space-separated."""
PARTS_WRITTEN = "runwire_parts"
"""Parts of runs got bytes, or ended. Payload: run ids, space-separated."""
EVENTS_PUBLISHED = "runwire_published"
"""Events were published. Payload: `<run id>,<first seq>,<last seq>`, space-separated."""

PAYLOAD_MAX = 7900
"""Bytes of one payload; PostgreSQL takes fewer than 8000."""

DEAF: Final = "runwire deaf"
"""The name of a deaf connection's session begins with it, and goes on with the listener and its process."""

_LAST_WORDS_S = 2.0
_CONNECT_S = 5.0
_HEAR_S = 5.0
_AGAIN_MAX_S = 2.0
_DEAF_MAX_S = 60.0


class ListenerDeaf(DatabaseUnavailable):
    """The connection that listens is open, and notifications do not reach it."""

    code = "listener_deaf"


@dataclass(frozen=True, slots=True)
class _Line:
    """A connection that listens. Its events are its own, since a connection that was given up tells late."""

    connection: Connection
    lost: asyncio.Event
    news: asyncio.Event
    """Set by an echo, and by the loss."""

    @property
    def open(self) -> bool:
        return not self.connection.is_closed() and not self.lost.is_set()


class Listener:
    """One connection that listens on channels and reopens after a loss until it succeeds.

    It also listens for its own notifications, which it sends through the pool, as others send theirs. When one does not
    come, the connection is *deaf*: that is a trouble, and the connection is opened again.

    Callbacks run in the event loop and must not block. `on_connected` runs after every (re)connect, when the
    channels are already listened on: what was missed in between is to be read from the tables then.
    """

    def __init__(
        self,
        database: Database,
        channels: Mapping[str, Callable[[str], None]],
        *,
        name: str = "listener",
        place: str = "",
        on_connected: Callable[[], None] = lambda: None,
        on_deaf: Callable[[], None] = lambda: None,
        check_s: float = 5.0,
    ) -> None:
        """`place`: the process, by which PostgreSQL knows a deaf connection. `on_deaf`: called for each of them."""
        self._database = database
        self._door = database.door(name, timeout_s=_CONNECT_S)
        self._attempts = database.attempts(Duty.LISTEN, longest_s=_AGAIN_MAX_S)
        self._hearing = database.attempts(Duty.HEAR, longest_s=_DEAF_MAX_S, facts={"listener": name})
        self._channels = channels
        self._echo_channel = f"runwire_echo_{secrets.token_hex(8)}"
        self._name = name
        self._place = place
        self._on_connected = on_connected
        self._on_deaf = on_deaf
        self._check_s = check_s
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Listens until cancelled."""
        while True:
            line = await self._connect()
            try:
                self._on_connected()
                self.connected.set()
                await self._watch(line)
            except ListenerDeaf as error:
                await self._stay_deaf(line, error)
                continue
            finally:
                self.connected.clear()
                cut(line.connection)
            self._attempts.failed(DatabaseUnavailable("PostgreSQL: the connection that listens was lost"))

    async def _connect(self) -> _Line:
        while True:
            with self._attempts:
                return await self._listen()
            await asyncio.sleep(self._attempts.pause_s)

    async def _listen(self) -> _Line:
        connection = await self._door.open()
        line = _Line(connection, asyncio.Event(), asyncio.Event())

        def lose(_connection: object) -> None:
            line.lost.set()
            line.news.set()

        connection.add_termination_listener(lose)
        try:
            with translated:
                for channel, callback in self._channels.items():
                    await connection.add_listener(channel, _payload_only(callback))
                await connection.add_listener(self._echo_channel, _payload_only(lambda _payload: line.news.set()))
        except BaseException:
            cut(connection)
            raise
        return line

    async def _watch(self, line: _Line) -> None:
        """Returns when the connection is lost. Raises ListenerDeaf."""
        if self._hearing.failures:
            await self._call_session(line, f"{DEAF} {self._name} of {self._place}")
        while line.open and await self._hears(line):
            if self._hearing.failures and line.news.is_set():
                await self._call_session(line, f"runwire {self._name}")
                self._hearing.succeeded()
            if await wait_until_set(line.lost, within_s=self._check_s):
                return

    async def _hears(self, line: _Line) -> bool:
        """Sends a notification and waits for it; False when the connection is lost. Raises ListenerDeaf.

        TCP may not report the loss, so a connection from which nothing comes is asked something. When the notification
        cannot be sent, nobody knows whether it would have come.
        """
        line.news.clear()
        try:
            await self._database.execute("SELECT pg_notify($1, '')", self._echo_channel)
        except DatabaseFailed:
            sent = False  # the pool has a trouble of its own
        else:
            sent = True
            if await wait_until_set(line.news, within_s=min(self._check_s, _HEAR_S)):
                return line.open
        try:
            with translated:
                await line.connection.execute("SELECT 1", timeout=min(self._check_s, _CONNECT_S))
        except DatabaseFailed:
            return False
        await asyncio.sleep(0)  # what came before the answer is told by now: this process may have stood still
        if sent and not line.news.is_set():
            raise ListenerDeaf(f"PostgreSQL: no notification reaches the {self._name}, though its connection is open")
        return line.open

    async def _stay_deaf(self, line: _Line, error: ListenerDeaf) -> None:
        """Keeps the connection until it is time for another, so that everybody sees that it is deaf."""
        self._on_deaf()
        self._hearing.failed(error)
        await self._call_session(line, f"{DEAF} {self._name} of {self._place}")
        await wait_until_set(line.lost, within_s=self._hearing.pause_s)

    async def _call_session(self, line: _Line, name: str) -> None:
        """Every process sees the name in pg_stat_activity, where diagnoses look for it."""
        with contextlib.suppress(DatabaseFailed), translated:
            await line.connection.execute("SELECT set_config('application_name', $1, false)", name)


def _payload_only(callback: Callable[[str], None]) -> Callable[..., None]:
    def called(_connection: object, _pid: int, _channel: str, payload: str) -> None:
        callback(payload)

    return called


class Notifier:
    """Sends hints to other processes without blocking the caller. Hints that gather meanwhile go out together.

    Call `send` from the event loop; run its loop as a task.
    """

    def __init__(self, database: Database) -> None:
        self._session = database.session("notify")
        self._attempts = database.attempts(Duty.NOTIFY)
        self._waiting: dict[str, dict[str, None]] = {}
        self._wake = asyncio.Event()

    def send(self, channel: str, words: Iterable[str]) -> None:
        self._waiting.setdefault(channel, {}).update(dict.fromkeys(words))
        self._wake.set()

    async def run(self) -> None:
        """Sends until cancelled. A hint that cannot be sent is dropped: the receivers' own polls find what it meant."""
        try:
            while True:
                await self._wake.wait()
                await self._send_waiting()
        finally:
            with contextlib.suppress(TimeoutError):  # what a process that stops hands over is claimed at once
                async with asyncio.timeout(_LAST_WORDS_S):
                    await self._send_waiting()
            await self._session.aclose()

    async def _send_waiting(self) -> None:
        self._wake.clear()
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        try:
            with self._attempts:
                await self.flush(waiting)
        except asyncio.CancelledError:
            for channel, words in waiting.items():
                self.send(channel, words)
            raise

    async def flush(self, waiting: Mapping[str, Mapping[str, None]]) -> None:
        pairs = [(channel, payload) for channel, words in waiting.items() for payload in packed(words)]
        await self._session.fetch(
            "SELECT pg_notify(c, p) FROM unnest($1::text[], $2::text[]) AS n (c, p)",
            [channel for channel, _ in pairs],
            [payload for _, payload in pairs],
        )


def packed(words: Iterable[str]) -> list[str]:
    """The words joined by spaces into as few payloads as fit."""
    payloads: list[str] = []
    current: list[str] = []
    size = 0
    for word in words:
        if current and size + len(word) + 1 > PAYLOAD_MAX:
            payloads.append(" ".join(current))
            current, size = [], 0
        current.append(word)
        size += len(word) + 1
    if current:
        payloads.append(" ".join(current))
    return payloads
