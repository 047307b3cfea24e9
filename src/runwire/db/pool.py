"""Connections that are lent for one statement or transaction at a time, in the order they were asked for.

A connection is opened by a task of its own and goes to whoever has waited longest by then: one that stops waiting ends
no attempt. While the server takes no more connections, those there are go round, and the pool gives up what it does
not use to the sessions that cannot open theirs.

    asked for -> lent -> idle -> closed
                  |  <----'
                  '-> spoilt: cut
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Final

from runwire.clock import monotonic, pause_s, wait_until_set
from runwire.db.connection import Connection, Door, cut
from runwire.errors import DatabaseUnavailable

ROOM_S: Final = 3.0
"""Seconds for which the pool keeps at most one connection after a session found no room."""
_REST_FIRST_S: Final = 0.1
_REST_MAX_S: Final = 5.0


class Pool:
    """At most `size` connections through one door. Belongs to one event loop.

    While a caller waits and no connection can be opened, the pool reports a trouble.
    """

    def __init__(
        self,
        door: Door,
        *,
        size: int,
        timeout_s: float,
        idle_s: float = 15.0,
    ) -> None:
        """`timeout_s`: seconds to wait for a connection. `idle_s`: seconds to keep an unused one."""
        self._door = door
        self._stuck = False
        self._size = size
        self._timeout_s = timeout_s
        self._idle_s = idle_s
        self._idle: list[tuple[Connection, float]] = []
        self._waiting: deque[asyncio.Future[Connection]] = deque()
        self._lent: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._rests_until = 0.0
        self._room_until = 0.0
        self._again: asyncio.TimerHandle | None = None
        self._trim: asyncio.TimerHandle | None = None
        self._closed = False
        self._none_lent = asyncio.Event()

    @property
    def lent(self) -> int:
        return len(self._lent)

    async def acquire(self) -> Connection:
        """A connection, to be released. Raises DatabaseUnavailable when none can be opened, or none became free in
        time.
        """
        if self._closed:
            raise DatabaseUnavailable("the pool is closed")
        while self._idle:
            connection, _ = self._idle.pop()
            if not connection.is_closed():
                self._lent.add(connection)
                return connection
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._grow()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await waiter
        except TimeoutError as error:
            self._leave(waiter)
            raise DatabaseUnavailable(f"no connection was free within {self._timeout_s:g} s") from error
        except BaseException:
            self._leave(waiter)
            raise

    def release(self, connection: Connection) -> None:
        """Takes a connection back. A cut one is replaced when a caller needs it."""
        self._lent.discard(connection)
        if not self._lent:
            self._none_lent.set()
        if connection.is_closed():
            self._grow()
        elif self._closed:
            cut(connection)
        else:
            self._pass_on(connection)

    def make_room(self) -> None:
        """Closes idle connections and keeps few for a while, because sessions of this process find no room on the
        server.
        """
        if self._closed:
            return
        self._room_until = monotonic() + ROOM_S
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            self._end(connection)

    async def close(self, *, within_s: float) -> None:
        """Ends every connection; lent ones when they come back, or when the time is over."""
        self._closed = True
        for timer in (self._again, self._trim):
            if timer is not None:
                timer.cancel()
        self._fail_waiters(DatabaseUnavailable("the pool is closed"))
        for task in self._opening:
            task.cancel()
        for connection, _ in self._idle:
            self._end(connection)
        self._idle.clear()
        until = monotonic() + within_s
        if tasks := self._opening | self._closing:
            await asyncio.wait(tasks, timeout=within_s)
        self._none_lent.clear()
        if self._lent and not await wait_until_set(self._none_lent, within_s=until - monotonic()):
            for connection in tuple(self._lent):
                cut(connection)

    # ------------------------------------------------------------------ whom a connection goes to

    def _pass_on(self, connection: Connection) -> None:
        if self._makes_room and (self._lent or self._idle):  # those serve who waits, one after the other
            self._end(connection)
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._lent.add(connection)
                waiter.set_result(connection)
                if not self._waiting:
                    self._unstick()
                return
        self._idle.append((connection, monotonic()))
        if self._trim is None:
            self._trim = asyncio.get_running_loop().call_later(self._idle_s, self._end_idle)

    def _unstick(self) -> None:
        if self._stuck:
            self._stuck = False
            self._door.well()

    def _leave(self, waiter: asyncio.Future[Connection]) -> None:
        """Removes a waiter. A connection that it just got goes to the next one."""
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self.release(waiter.result())
            return
        waiter.cancel()
        with contextlib.suppress(ValueError):
            self._waiting.remove(waiter)

    def _fail_waiters(self, error: DatabaseUnavailable) -> None:
        waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(error)

    # ------------------------------------------------------------------ more connections

    @property
    def _makes_room(self) -> bool:
        return monotonic() < self._room_until

    def _grow(self) -> None:
        """Opens a connection for each waiter, up to the limit."""
        if self._closed:
            return
        there = len(self._lent) + len(self._idle) + len(self._opening)
        if there and (rest_s := max(self._rests_until, self._room_until) - monotonic()) > 0:
            if self._waiting and self._again is None:
                self._again = asyncio.get_running_loop().call_later(rest_s, self._grow_again)
            return
        for _ in range(min(len(self._waiting) - len(self._opening), self._size - there)):
            task = asyncio.create_task(self._open(), name="connect pool")
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _grow_again(self) -> None:
        self._again = None
        self._grow()

    async def _open(self) -> None:
        try:
            connection = await self._door.connect()
        except DatabaseUnavailable as error:
            self._failures += 1
            self._stuck = True
            self._door.failed(error)
            self._rests_until = monotonic() + pause_s(self._failures, first_s=_REST_FIRST_S, longest_s=_REST_MAX_S)
            if not self._lent and len(self._opening) <= 1:  # nobody else's connection ever comes back
                self._fail_waiters(error)
            else:
                self._grow()  # after a rest
            return
        self._failures, self._rests_until = 0, 0.0
        self._unstick()
        if self._closed:
            cut(connection)
        else:
            self._pass_on(connection)

    # ------------------------------------------------------------------ fewer

    def _end_idle(self) -> None:
        """Connections unused for long. The one used last is lent first, so the others age."""
        self._trim = None
        until = monotonic() - self._idle_s
        for connection, since in [entry for entry in self._idle if entry[1] <= until]:
            self._idle.remove((connection, since))
            self._end(connection)
        if self._idle:
            due_s = self._idle[0][1] + self._idle_s - monotonic()
            self._trim = asyncio.get_running_loop().call_later(max(due_s, 0.0) + 0.01, self._end_idle)

    def _end(self, connection: Connection) -> None:
        task = asyncio.create_task(_goodbye(connection), name="close pooled")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _goodbye(connection: Connection) -> None:
    try:
        await connection.close(timeout=2)
    except Exception:  # noqa: BLE001  # however it ended: it is over
        cut(connection)
