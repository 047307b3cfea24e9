"""Forward-only migrations: numbered SQL files, each applied once, in order, in its own transaction.

A file that only adds says so in a comment `-- serves: NNNN`: code that knows migrations up to NNNN still runs on it.
Such code goes on while the database is migrated under it, and starts on the newer schema, too. So an upgrade is two
releases: one that adds and uses, then, when no older process is left, one that takes away.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from runwire.db.database import translated_errors
from runwire.errors import MigrationError

_SERVES = re.compile(r"^-- serves: (\d{4})$", re.MULTILINE)
_TABLE = """
CREATE TABLE IF NOT EXISTS runwire_migrations (
    name       text PRIMARY KEY,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    serves     text
)"""
_LOCK = 0x72756E77697265  # "runwire": two processes that start together migrate one after the other


@dataclass(frozen=True, slots=True)
class Migration:
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def serves(self) -> str | None:
        """The number of the oldest migration whose code can go on after this one; None: only this one's own."""
        found = _SERVES.search(self.sql)
        return found[1] if found else None


@dataclass(frozen=True, slots=True)
class _Applied:
    sha256: str
    serves: str | None


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
        await connection.execute(_TABLE)
        todo = _plan(await _applied(connection))
        for migration in todo:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO runwire_migrations (name, sha256, serves) VALUES ($1, $2, $3)",
                    migration.name,
                    migration.sha256,
                    migration.serves,
                )
        return tuple(migration.name for migration in todo)
    finally:
        await connection.close()


async def _applied(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, _Applied]:
    if await connection.fetchval("SELECT to_regclass('runwire_migrations')") is None:
        return {}
    rows = await connection.fetch("SELECT name, sha256, serves FROM runwire_migrations")
    return {row["name"]: _Applied(row["sha256"], row["serves"]) for row in rows}


def _plan(applied: dict[str, _Applied]) -> tuple[Migration, ...]:
    shipped = migrations()
    known = {migration.name: migration.sha256 for migration in shipped}
    newest = shipped[-1].name[:4]
    for name, found in applied.items():
        if name in known:
            if known[name] != found.sha256:
                raise MigrationError(f"migration {name} was applied with other content than this version ships")
        elif found.serves is None or found.serves > newest:
            raise MigrationError(f"the database has migration {name}, which this version of runwire cannot run on")
    return tuple(migration for migration in shipped if migration.name not in applied)
