"""Work of the tables' owner for a serving role that does not own them: grants, and the days of the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from runwire.clock import monotonic, pause_s
from runwire.db.connection import Connection
from runwire.db.privileges import forbidden
from runwire.db.translation import translated
from runwire.errors import ConfigurationError, DatabaseUnavailable

_LOCK_TIMEOUT: Final = "500ms"
PATIENCE_S: Final = 60.0
"""Seconds for which grants wait for the locks of tables."""


async def let_serve(dsn: str, *, role: str) -> None:
    """Grants the role what every process needs but archivers; again after migrations, for their tables.

    Raises ConfigurationError when there is no such role or the user of `dsn` is not the owner, DatabaseUnavailable.
    """
    async with _owner(dsn) as connection:
        if await connection.fetchval("SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role):
            raise ConfigurationError((f"there is no PostgreSQL role {role!r}: CREATE ROLE ... LOGIN makes it",))
        await _patiently(connection, role)


async def make_days(dsn: str, *, ahead: int) -> int:
    """Makes the event partitions from yesterday on that are missing; how many they were. Raises as `let_serve`."""
    async with _owner(dsn) as connection:
        made: int = await connection.fetchval("SELECT ensure_event_partitions($1)", ahead)
        return made


async def _patiently(connection: Connection, role: str) -> None:
    """Grants in one transaction. It needs a lock of each table, so it lets those pass whom it would hold up."""
    failures, give_up_at = 0, monotonic() + PATIENCE_S
    while True:
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
                await connection.execute("SELECT runwire_let_serve($1)", role)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            failures += 1
            if monotonic() >= give_up_at:
                raise ConfigurationError(
                    ("other sessions hold locks on the tables: nothing was granted; end long transactions, and repeat",)
                ) from error
            await asyncio.sleep(pause_s(failures, first_s=0.2, longest_s=2.0))
        else:
            return


@asynccontextmanager
async def _owner(dsn: str) -> AsyncIterator[Connection]:
    try:
        with translated:
            connection = await asyncpg.connect(dsn, timeout=10)
            try:
                yield connection
            finally:
                await connection.close(timeout=2)
    except DatabaseUnavailable as error:
        if what := forbidden(error):
            raise ConfigurationError(
                (f"this database role may not do that: {what}; the owner of the tables may",)
            ) from error
        raise
