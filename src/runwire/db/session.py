"""A connection with one owner, which reopens after a loss."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from runwire.clock import pause_s
from runwire.db.connection import Connection, Door, cut
from runwire.db.transaction import Row, Transaction, chaining, transacting
from runwire.db.translation import spoils, translated
from runwire.errors import DatabaseFailed, DatabaseUnavailable

_REOPEN_FIRST_S: Final = 0.05
_REOPEN_MAX_S: Final = 1.0
_CLOSE_S: Final = 2.0


class Session:
    """One connection of its own, opened on first use and again after it failed; used by one task at a time.

    A task beside its user tries to open it until that succeeds. Each use waits for one attempt.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._connection: Connection | None = None
        self._chained: Connection | None = None
        """The connection with an open, empty transaction."""
        self._opening: asyncio.Task[None] | None = None
        self._attempt: asyncio.Future[None] | None = None
        self.opened = 0
        """How many connections it has had. A new connection lacks what the last one held, such as a lock."""

    @property
    def is_open(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        """Rows of a statement in a transaction of its own. Raises DatabaseUnavailable or ConstraintViolated."""
        connection = await self._open()
        try:
            with translated:
                return await connection.fetch(sql, *args)
        except DatabaseFailed as error:
            if spoils(error):
                self.drop()
            raise

    async def fetchrow(self, sql: str, *args: object) -> Row | None:
        rows = await self.fetch(sql, *args)
        return rows[0] if rows else None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commits at the end of the block, rolls back when it raises."""
        connection = await self._open()
        try:
            async with transacting(connection) as transaction:
                yield transaction
        except DatabaseFailed as error:
            if spoils(error):
                self.drop()
            raise

    @asynccontextmanager
    async def chained(self) -> AsyncIterator[Transaction]:
        """As `transaction`, for one that another follows soon: see `chaining`. `unchain` when none does."""
        connection = await self._open()
        begun, self._chained = self._chained is connection, None
        try:
            async with chaining(connection, begun=begun) as transaction:
                yield transaction
            self._chained = connection
        except DatabaseFailed as error:
            if spoils(error):
                self.drop()
            raise

    async def unchain(self) -> None:
        """Ends the transaction that `chained` has begun for the next one, if there is one."""
        connection, self._chained = self._chained, None
        if connection is None or connection.is_closed():
            return
        try:
            with translated:
                await connection.execute("COMMIT")
        except BaseException:
            cut(connection)
            raise

    def drop(self) -> None:
        """Cuts the connection; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            cut(connection)

    async def aclose(self) -> None:
        """Closes the connection, in two seconds at most, whether the server still answers or not."""
        await self.give_up()
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                with translated:
                    await connection.close(timeout=_CLOSE_S)
            except DatabaseUnavailable:
                cut(connection)

    async def give_up(self) -> None:
        """Stops trying to open it."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)

    async def _open(self) -> Connection:
        connection = self._connection
        if connection is not None and not connection.is_closed():
            return connection
        self._connection = None
        if self._opening is None:
            self._attempt = asyncio.get_running_loop().create_future()
            self._opening = asyncio.create_task(self._keep_opening(), name=f"connect {self._door.name}")
        assert self._attempt is not None  # noqa: S101  # there is one while there is a task
        # A user that leaves does not end the attempt: the next one finds the connection.
        await asyncio.shield(self._attempt)
        if self._connection is None:
            raise DatabaseUnavailable("the session is closed")
        return self._connection

    async def _keep_opening(self) -> None:
        failures = 0
        attempt = self._attempt
        try:
            while attempt is not None:
                try:
                    self._connection = await self._door.open()
                except DatabaseUnavailable as error:
                    failures += 1
                    self._attempt = asyncio.get_running_loop().create_future()
                    attempt.set_exception(error)
                    attempt.exception()  # nobody may have waited for it
                    attempt = self._attempt
                    await asyncio.sleep(pause_s(failures, first_s=_REOPEN_FIRST_S, longest_s=_REOPEN_MAX_S))
                    continue
                self.opened += 1
                attempt.set_result(None)
                return
        finally:
            self._opening = self._attempt = None
            if attempt is not None and not attempt.done():  # given up: who waits finds no connection
                attempt.set_result(None)
