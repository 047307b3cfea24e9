"""Forward-only migrations: numbered SQL files, each applied once, in order, in its own transaction."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from runwire.db.database import translated_errors
from runwire.errors import MigrationError

_LOCK = 0x72756E77697265  # "runwire": two processes that start together migrate one after the other


@dataclass(frozen=True, slots=True)
class Migration:
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> tuple[Migration, ...]:
    """Every migration this version ships, oldest first."""
    folder = files("runwire.db").joinpath("migrations")
    found = (entry for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return tuple(
        Migration(entry.name.removesuffix(".sql"), entry.read_text(encoding="utf-8"))
        for entry in sorted(found, key=lambda entry: entry.name)
    )


async def pending(connection: asyncpg.Connection[asyncpg.Record]) -> tuple[str, ...]:
    """Names of the migrations this database lacks. Raises MigrationError when it has one this version does not know."""
    applied = await _applied(connection)
    return tuple(m.name for m in _plan(applied))


async def migrate(dsn: str) -> tuple[str, ...]:
    """Brings the database at `dsn` up to this version and returns the names of what was applied.

    Raises DatabaseUnavailable, or MigrationError when the database refuses or is of a later version.
    """
    try:
        with translated_errors():
            return await _migrate(await asyncpg.connect(dsn))
    except asyncpg.PostgresError as error:
        raise MigrationError(f"PostgreSQL refuses to migrate: {type(error).__name__}") from error


async def _migrate(connection: asyncpg.Connection[asyncpg.Record]) -> tuple[str, ...]:
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS runwire_migrations ("
            "name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        todo = _plan(await _applied(connection))
        for migration in todo:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO runwire_migrations (name, sha256) VALUES ($1, $2)",
                    migration.name,
                    migration.sha256,
                )
        return tuple(migration.name for migration in todo)
    finally:
        await connection.close()


async def _applied(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, str]:
    if await connection.fetchval("SELECT to_regclass('runwire_migrations')") is None:
        return {}
    rows = await connection.fetch("SELECT name, sha256 FROM runwire_migrations")
    return {row["name"]: row["sha256"] for row in rows}


def _plan(applied: dict[str, str]) -> tuple[Migration, ...]:
    shipped = migrations()
    known = {migration.name: migration.sha256 for migration in shipped}
    for name, sha256 in applied.items():
        if name not in known:
            raise MigrationError(f"the database has migration {name}, which this version of runwire does not know")
        if known[name] != sha256:
            raise MigrationError(f"migration {name} was applied with other content than this version ships")
    return tuple(migration for migration in shipped if migration.name not in applied)
