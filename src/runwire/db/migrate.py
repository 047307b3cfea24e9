"""Forward-only migrations: numbered SQL files, each applied once, in order, in its own transaction.

A file that only adds says so in a comment `-- serves: NNNN`: code that knows migrations up to NNNN still runs on it.
Such code keeps running during the migration, and starts on the newer schema, too. So an upgrade takes two releases: one
that adds and uses, then, when no older process is left, one that removes.

A migration delays others by at most `_LOCK_TIMEOUT`. If it lacks a lock by then, it lets the queue behind it pass, and
tries again. A plain `CREATE INDEX` on a big table is built CONCURRENTLY, after the rest of the file. The file counts as
applied once the index exists.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import asyncpg
import structlog

from runwire.clock import monotonic, pause_s
from runwire.db.connection import Connection
from runwire.db.migration import Index, Migration, migrations
from runwire.db.privileges import forbidden
from runwire.db.sql import load_sql
from runwire.db.translation import translated
from runwire.errors import DatabaseFailed, DatabaseUnavailable, MigrationError

_SQL: Final = load_sql("runwire.db", "migrate.sql")
_TABLE = """
CREATE TABLE IF NOT EXISTS runwire_migrations (
    name       text PRIMARY KEY,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    serves     text
)"""
_INDEXES_MISSING = (
    "ALTER TABLE runwire_migrations ADD COLUMN IF NOT EXISTS indexes_missing boolean NOT NULL DEFAULT false"
)
_LOCK = 0x72756E77697265  # "runwire": two processes that start together migrate one after the other
_LOCK_TIMEOUT: Final = "500ms"
_PAUSE_FIRST_S: Final = 0.5
_PAUSE_MAX_S: Final = 5.0
_POLL_S: Final = 0.2
PATIENCE_S: Final = 900.0
"""Seconds for which a migration tries to get its locks."""
BIG_BYTES: Final = 8 * 2**20
"""An index of a smaller table is built within a few milliseconds, in the transaction of its file."""

_READ_ONLY: Final = "25006"
_REFUSALS: Final = ("0A", "0L", "2B", "42", "P0")
"""Classes of SQLSTATE for which a retry is useless: the server understood the statement and refused it."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Applied:
    sha256: str
    serves: str | None
    indexes_missing: bool = False


async def pending(connection: Connection) -> tuple[str, ...]:
    """Names of the migrations this database lacks. Raises MigrationError when it has one this version does not know."""
    applied = await _applied(connection)
    return tuple(m.name for m in _plan(applied))


async def migrate(dsn: str, *, patience_s: float = PATIENCE_S, big_bytes: int = BIG_BYTES) -> tuple[str, ...]:
    """Brings the database at `dsn` up to this version and returns the names of what was applied.

    While it waits, for another who migrates or for locks, it says so once, in the log. Raises DatabaseUnavailable, also
    for a database that takes no writes. Raises MigrationError when the database refuses, is of a later version, or did
    not give the locks in `patience_s`.
    """
    try:
        with translated:
            connection = await asyncpg.connect(dsn, server_settings=_SETTINGS)
            try:
                await _refuse_read_only(connection)
                return await _Migrator(connection, patience_s=patience_s, big_bytes=big_bytes).migrate()
            finally:
                await connection.close()
    except DatabaseFailed as error:
        if what := forbidden(error):
            raise MigrationError(
                f"this database role may not migrate: {what}. Run `runwire migrate` as the owner of the tables, or let "
                "the role make them in a schema: GRANT USAGE, CREATE ON SCHEMA <schema> TO <role>"
            ) from error
        if isinstance(error, DatabaseUnavailable) and not (error.sqlstate or "").startswith(_REFUSALS):
            raise
        raise MigrationError(f"PostgreSQL refuses to migrate: {type(error.__cause__).__name__}") from error


_SETTINGS: Final = {
    "application_name": "runwire migrate",
    "default_transaction_isolation": "read committed",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}


class _Migrator:
    def __init__(self, connection: Connection, *, patience_s: float, big_bytes: int) -> None:
        self._connection = connection
        self._big_bytes = big_bytes
        self._give_up_at = monotonic() + patience_s
        self._said = False

    async def migrate(self) -> tuple[str, ...]:
        if not _plan(await _applied(self._connection)):  # as nearly always: nothing is locked, and nothing written
            return ()
        await self._alone()
        there = await self._connection.fetchval("SELECT to_regclass('runwire_migrations') IS NOT NULL")
        await self._patiently(_INDEXES_MISSING if there else f"{_TABLE}; {_INDEXES_MISSING}")
        applied = await _applied(self._connection)
        todo = _plan(applied)
        for migration in todo:
            await self._apply(migration, begun=migration.name in applied)
        return tuple(migration.name for migration in todo)

    async def _alone(self) -> None:
        """Returns when no other process migrates. Polls, so that the process can be stopped meanwhile."""
        said = False
        while not await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
            if not said:
                said = True
                other = await self._connection.fetchrow(_SQL["migrator"], _LOCK)
                by = f"session {other['pid']} ({other['name']})" if other is not None else "another process"
                _log.warning("migration_waiting", why=f"{by} migrates this database")
            await asyncio.sleep(_POLL_S)

    async def _apply(self, migration: Migration, *, begun: bool) -> None:
        indexes: tuple[Index, ...] = migration.indexes
        if not begun:
            big = [await self._connection.fetchval(_SQL["is_big"], index.table, self._big_bytes) for index in indexes]
            indexes = tuple(index for index, is_big in zip(indexes, big, strict=True) if is_big)
            await self._patiently(migration.without(indexes), migration, indexes_missing=bool(indexes))
        for index in indexes:
            await self._build(index)
        if indexes:
            await self._connection.execute(_SQL["indexes_built"], migration.name)

    async def _patiently(self, sql: str, migration: Migration | None = None, *, indexes_missing: bool = False) -> None:
        """Runs it in a transaction with a short lock time-out, repeatedly, until it gets all its locks."""
        failures = 0
        while True:
            try:
                async with self._connection.transaction():
                    await self._connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
                    await self._connection.execute(sql)
                    if migration is not None:
                        await self._connection.execute(
                            _SQL["record"],
                            migration.name,
                            migration.sha256,
                            migration.serves,
                            indexes_missing,
                        )
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
                failures += 1
                holder = await self._holder()
                what = migration.name if migration is not None else "the table of migrations"
                if monotonic() >= self._give_up_at:
                    raise MigrationError(f"{what} did not get its locks: {holder} holds locks on the tables") from error
                self._say(f"{what} needs a lock; {holder} holds locks on the tables")
                await asyncio.sleep(pause_s(failures, first_s=_PAUSE_FIRST_S, longest_s=_PAUSE_MAX_S))
            else:
                return

    async def _build(self, index: Index) -> None:
        """Builds the index without blocking others; it waits for older transactions that still read the table."""
        if await self._connection.fetchval(_SQL["is_invalid"], index.name):  # left behind by one that was stopped
            await self._connection.execute(f"DROP INDEX CONCURRENTLY {index.name}")
        _log.info("index_building", index=index.name, table=index.table)
        await self._connection.execute(index.sql)

    async def _holder(self) -> str:
        row = await self._connection.fetchrow(_SQL["holder"])
        if row is None:
            return "another session"
        return f"session {row['pid']} ({row['name']}, {row['state']}, for {row['age_s']} s)"

    def _say(self, why: str) -> None:
        if not self._said:
            self._said = True
            _log.warning("migration_waiting", why=why)


async def _refuse_read_only(connection: Connection) -> None:
    """Raises DatabaseUnavailable where every append would fail: a process should not start there and look well."""
    [writes] = await connection.fetch(_SQL["writes"])
    if writes["standby"]:
        raise DatabaseUnavailable(
            "PostgreSQL is a standby, which takes no writes: name the primary, or all hosts with "
            "target_session_attrs=read-write, in RUNWIRE_DATABASE_URL",
            sqlstate=_READ_ONLY,
        )
    if writes["read_only"]:
        raise DatabaseUnavailable(
            "the database is read-only for this role, because default_transaction_read_only is on: some providers set "
            "it when a disk is full; make room, or reset it",
            sqlstate=_READ_ONLY,
        )


async def _applied(connection: Connection) -> dict[str, _Applied]:
    if await connection.fetchval("SELECT to_regclass('runwire_migrations')") is None:
        return {}
    rows = await connection.fetch(_SQL["applied"])
    return {row["name"]: _Applied(row["sha256"], row["serves"], row["indexes_missing"]) for row in rows}


def _plan(applied: dict[str, _Applied]) -> tuple[Migration, ...]:
    """The migrations that are left, including those that have begun."""
    shipped = migrations()
    known = {migration.name: migration.sha256 for migration in shipped}
    newest = shipped[-1].name[:4]
    for name, found in applied.items():
        if name in known:
            if known[name] != found.sha256:
                raise MigrationError(f"migration {name} was applied with other content than this version ships")
        elif found.serves is None or found.serves > newest:
            raise MigrationError(f"the database has migration {name}, which this version of runwire cannot run on")
    return tuple(
        migration for migration in shipped if migration.name not in applied or applied[migration.name].indexes_missing
    )
