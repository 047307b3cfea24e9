"""Transactions of a connection: at the isolation our statements are written for, and over when their block is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import asyncpg

from runwire.db.connection import ISOLATION, Connection, cut
from runwire.db.translation import translated
from runwire.errors import DatabaseFailed, ReadTimedOut

Row: TypeAlias = asyncpg.Record
_BEGIN: Final = f"BEGIN ISOLATION LEVEL {ISOLATION.replace('_', ' ').upper()}"


async def read(connection: Connection, sql: str, args: Sequence[object], *, within_s: float | None) -> list[Row]:
    """Rows of a statement, cancelled when it takes longer. Raises ReadTimedOut, and what the driver raises."""
    if within_s is None:
        return await connection.fetch(sql, *args)
    try:
        return await connection.fetch(sql, *args, timeout=within_s)
    except TimeoutError as error:
        raise ReadTimedOut(within_s) from error


class Transaction:
    """Statements of one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *args: object, within_s: float | None = None) -> list[Row]:
        """With `within_s` it raises ReadTimedOut, and the transaction is over."""
        with translated:
            return await read(self._connection, sql, args, within_s=within_s)

    async def fetchrow(self, sql: str, *args: object) -> Row | None:
        with translated:
            return await self._connection.fetchrow(sql, *args)

    async def execute(self, sql: str, *args: object) -> str:
        with translated:
            return await self._connection.execute(sql, *args)


@asynccontextmanager
async def transacting(connection: Connection) -> AsyncIterator[Transaction]:
    """Commits at the end of the block, rolls back when it raises.

    If neither is answered, or the block is cancelled, the connection's state is unknown, and it is cut. A cancelled
    block does not try to roll back: ROLLBACK would wait for the statement that was cancelled, as long as the server
    likes.
    """
    over = False
    try:
        with translated:
            transaction = connection.transaction(isolation=ISOLATION)
            await transaction.start()
        try:
            yield Transaction(connection)
        except Exception as error:
            if isinstance(error, DatabaseFailed) and connection.is_closed():
                raise  # there is nothing to roll back
            with translated:
                await transaction.rollback()
            over = True
            raise
        with translated:
            await transaction.commit()
        over = True
    finally:
        if not over:
            cut(connection)


@asynccontextmanager
async def chaining(connection: Connection, *, begun: bool) -> AsyncIterator[Transaction]:
    """As `transacting`, and its commit begins the next transaction: an exchange less for one that follows soon.

    `begun`: the one before has done that. The next one has no snapshot and no lock until something is done in it.
    """
    over = False
    try:
        if not begun:
            with translated:
                await connection.execute(_BEGIN)
        try:
            yield Transaction(connection)
        except Exception as error:
            if isinstance(error, DatabaseFailed) and connection.is_closed():
                raise
            with translated:
                await connection.execute("ROLLBACK")
            over = True
            raise
        with translated:
            await connection.execute("COMMIT AND CHAIN")
        over = True
    finally:
        if not over:
            cut(connection)
