"""Whether a PostgreSQL can carry runwire, looked at from outside: each finding says what was seen and what to do."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from runwire.clock import monotonic
from runwire.db import migrate
from runwire.db.connection import Connection
from runwire.db.database import Database
from runwire.db.sql import load_sql
from runwire.errors import ConfigurationError, DatabaseUnavailable, MigrationError

OLDEST_VERSION: Final = 14
NOTIFY_WITHIN_S: Final = 5.0

_SQL = load_sql("runwire.db", "health.sql")


@dataclass(frozen=True, slots=True)
class Finding:
    """One check and what it saw. `remedy` is what to do, empty when there is nothing to do."""

    check: str
    ok: bool
    seen: str
    remedy: str = ""


async def check_reachable(dsn: str, *, timeout_s: float = 5.0) -> None:
    """Returns when the database answers. Raises DatabaseUnavailable with a sentence that says why it does not,
    ConfigurationError when `dsn` is none.
    """
    async with _connected(dsn, timeout_s=timeout_s):
        pass


async def pending_migrations(dsn: str) -> tuple[str, ...]:
    """Names of the migrations the database lacks. Raises like `check_reachable`, or MigrationError."""
    async with _connected(dsn) as connection:
        return await migrate.pending(connection)


async def examine(dsn: str) -> list[Finding]:
    """All checks, or only the failed connection when the database cannot be reached."""
    try:
        async with _connected(dsn) as connection:
            return [
                Finding("database", ok=True, seen="reachable"),
                *await _server(connection),
                *await _schema(connection),
                await _notifications(dsn, connection),
            ]
    except (DatabaseUnavailable, ConfigurationError) as error:
        remedy = "start the server, or set DATABASE_URL to one that runs; check host, port, user and pg_hba.conf"
        return [Finding("database", ok=False, seen=str(error), remedy=remedy)]


async def examine_pooler(dsn: str, *, within_s: float = 5.0) -> Finding:
    """Whether statements get through a pooler as this service sends them there."""
    try:
        async with Database(dsn, direct_dsn=dsn, pool_size=4, timeout_s=within_s) as database:
            answers = await asyncio.gather(*(database.fetchval("SELECT $1::int", n) for n in range(16)))
    except DatabaseUnavailable as error:
        remedy = "start the pooler, or correct DATABASE_URL; RUNWIRE_DATABASE_DIRECT_URL alone is enough without one"
        return Finding("pooler", ok=False, seen=str(error), remedy=remedy)
    assert answers == list(range(16))  # noqa: S101  # each statement got its own answer
    return Finding("pooler", ok=True, seen="takes statements in transactions of their own")


async def _server(connection: Connection) -> list[Finding]:
    row = await connection.fetchrow(_SQL["server"])
    assert row is not None  # noqa: S101  # a SELECT without FROM has one row
    old = row["version_num"] < OLDEST_VERSION * 10_000
    off = [name for name in ("fsync", "full_page_writes", "synchronous_commit") if row[name] == "off"]
    return [
        Finding(
            "version",
            ok=not old,
            seen=f"PostgreSQL {row['version']}",
            remedy=f"upgrade to PostgreSQL {OLDEST_VERSION} or later" if old else "",
        ),
        Finding(
            "durability",
            ok=not off,
            seen=f"{', '.join(off)} off" if off else "fsync and synchronous_commit are on",
            remedy=f"set {' and '.join(f'{name} = on' for name in off)} in postgresql.conf: a crash of the machine "
            "would lose events that clients have seen"
            if off
            else "",
        ),
    ]


async def _schema(connection: Connection) -> list[Finding]:
    try:
        pending = await migrate.pending(connection)
    except MigrationError as error:
        remedy = "run the version of runwire that made this schema, or a later one"
        return [Finding("migrations", ok=False, seen=str(error), remedy=remedy)]
    if pending:
        seen = f"not applied: {', '.join(pending)}"
        return [Finding("migrations", ok=False, seen=seen, remedy="run `runwire migrate`")]
    missing = [row["t"] for row in await connection.fetch(_SQL["missing_tables"])]
    if missing:
        remedy = "check search_path of the user and database; restore the tables from a backup if they were dropped"
        return [Finding("tables", ok=False, seen=f"not found: {', '.join(missing)}", remedy=remedy)]
    invalid = [row["name"] for row in await connection.fetch(_SQL["invalid_indexes"])]
    days: int = await connection.fetchval(_SQL["partitions_ahead"])
    return [
        Finding("migrations", ok=True, seen="all applied"),
        Finding(
            "indexes",
            ok=not invalid,
            seen=f"invalid: {', '.join(invalid)}" if invalid else "tables there, indexes valid",
            remedy="; ".join(f"REINDEX INDEX CONCURRENTLY {name}" for name in invalid),
        ),
        Finding(
            "partitions",
            ok=days >= 2,
            seen=f"of run_events for {days} days from today on (UTC)",
            remedy=""
            if days >= 2
            else "start `runwire serve`, which makes them hourly, or SELECT ensure_event_partitions(7)",
        ),
    ]


async def _notifications(dsn: str, sender: Connection) -> Finding:
    """LISTEN on one connection, NOTIFY on another, as two processes of a deployment would."""
    channel = f"runwire_doctor_{secrets.token_hex(4)}"
    heard = asyncio.Event()
    async with _connected(dsn) as listener:
        await listener.add_listener(channel, lambda *_: heard.set())
        began = monotonic()
        await sender.execute("SELECT pg_notify($1, '')", channel)
        try:
            await asyncio.wait_for(heard.wait(), NOTIFY_WITHIN_S)
        except TimeoutError:
            remedy = "a pooler in transaction mode (PgBouncer) passes no notifications: set RUNWIRE_DATABASE_DIRECT_URL"
            return Finding("notifications", ok=False, seen=f"none within {NOTIFY_WITHIN_S:g} s", remedy=remedy)
        finally:
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError):
                await listener.execute(f"UNLISTEN {channel}")
        took_ms = (monotonic() - began) * 1000
    return Finding("notifications", ok=True, seen=f"LISTEN/NOTIFY took {took_ms:.1f} ms")


@contextlib.asynccontextmanager
async def _connected(dsn: str, *, timeout_s: float = 5.0) -> AsyncIterator[Connection]:
    try:
        connection: Connection = await asyncpg.connect(
            dsn, timeout=timeout_s, command_timeout=timeout_s, server_settings={"application_name": "runwire doctor"}
        )
    except (asyncpg.InterfaceError, ValueError) as error:
        raise ConfigurationError((f"DATABASE_URL: {_first_line(error)}",)) from error
    except (OSError, asyncpg.PostgresError) as error:
        raise DatabaseUnavailable(f"cannot connect to PostgreSQL: {_reason(error)}") from error
    try:
        yield connection
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DatabaseUnavailable(f"PostgreSQL failed while it was asked: {_reason(error)}") from error
    finally:
        connection.terminate()


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).splitlines() or [type(error).__name__]
    return lines[0]
