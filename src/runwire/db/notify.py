"""LISTEN/NOTIFY: hints between processes. Losing one costs latency, never an event."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping

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

_LAST_WORDS_S = 2.0
_CONNECT_S = 5.0
_AGAIN_MAX_S = 2.0


class Listener:
    """One connection that listens on channels and reopens after a loss until it succeeds.

    Callbacks run in the event loop and must not block. `on_connected` runs after every (re)connect, when the
    channels are already listened on: what was missed in between is to be read from the tables then.
    """

    def __init__(
        self,
        database: Database,
        channels: Mapping[str, Callable[[str], None]],
        *,
        name: str = "listener",
        on_connected: Callable[[], None] = lambda: None,
        check_s: float = 10.0,
    ) -> None:
        self._door = database.door(name, timeout_s=_CONNECT_S)
        self._attempts = database.attempts(Duty.LISTEN, longest_s=_AGAIN_MAX_S)
        self._channels = channels
        self._on_connected = on_connected
        self._check_s = check_s
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Listens until cancelled."""
        while True:
            connection, lost = await self._connect()
            try:
                self._on_connected()
                self.connected.set()
                await self._watch(connection, lost)
            finally:
                self.connected.clear()
                cut(connection)
            self._attempts.failed(DatabaseUnavailable("PostgreSQL: the connection that listens was lost"))

    async def _connect(self) -> tuple[Connection, asyncio.Event]:
        """A connection that listens, and what is set when it is lost: its own, since one given up tells late."""
        while True:
            with self._attempts:
                return await self._listen()
            await asyncio.sleep(self._attempts.pause_s)

    async def _listen(self) -> tuple[Connection, asyncio.Event]:
        connection = await self._door.open()
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _connection: lost.set())
        try:
            with translated:
                for channel, callback in self._channels.items():
                    await connection.add_listener(channel, _payload_only(callback))
        except BaseException:
            cut(connection)
            raise
        return connection, lost

    async def _watch(self, connection: Connection, lost: asyncio.Event) -> None:
        """Returns when the connection is lost. Probes a silent connection now and then, since TCP may not report the
        loss.
        """
        while not connection.is_closed() and not lost.is_set():
            if await wait_until_set(lost, within_s=self._check_s):
                return
            try:
                with translated:
                    await connection.execute("SELECT 1", timeout=min(self._check_s, _CONNECT_S))
            except DatabaseFailed:
                return


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
