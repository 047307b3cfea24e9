"""Work of the tables' owner for a serving role that does not own them: grants, and the days of the log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from runwire.db.connection import Connection
from runwire.db.privileges import forbidden
from runwire.db.translation import translated
from runwire.errors import ConfigurationError, DatabaseUnavailable


async def let_serve(dsn: str, *, role: str) -> None:
    """Grants the role what every process needs but archivers; again after migrations, for their tables.

    Raises ConfigurationError when there is no such role or the user of `dsn` is not the owner, DatabaseUnavailable.
    """
    async with _owner(dsn) as connection:
        if await connection.fetchval("SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role):
            raise ConfigurationError((f"there is no PostgreSQL role {role!r}: CREATE ROLE ... LOGIN makes it",))
        await connection.execute("SELECT runwire_let_serve($1)", role)


async def make_days(dsn: str, *, ahead: int) -> int:
    """Makes the event partitions from yesterday on that are missing; how many they were. Raises as `let_serve`."""
    async with _owner(dsn) as connection:
        made: int = await connection.fetchval("SELECT ensure_event_partitions($1)", ahead)
        return made


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
