"""Databases of a benchmark's own server."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

import asyncpg

from runwire.db.migrate import migrate


async def new_database(admin_dsn: str, name: str) -> str:
    """The DSN of a new, migrated, empty database on the same server; one of that name goes first."""
    dsn = await empty_database(admin_dsn, name)
    await migrate(dsn)
    return dsn


async def empty_database(admin_dsn: str, name: str) -> str:
    """The same without runwire's tables."""
    admin = await asyncpg.connect(admin_dsn)
    try:
        await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await admin.execute(f'CREATE DATABASE "{name}"')
    finally:
        await admin.close()
    parts = urlsplit(admin_dsn)
    return urlunsplit(parts._replace(path=f"/{name}"))
