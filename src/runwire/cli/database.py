"""The database a command is about: the one DATABASE_URL names, or the embedded one of the data directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres
from runwire.db.settings import DatabaseSettings


@asynccontextmanager
async def database_of(settings: DatabaseSettings) -> AsyncIterator[str]:
    """Its DSN. An embedded server that is running is shared; otherwise it runs for the time of the block."""
    if settings.session_url is not None:
        yield settings.session_url
        return
    async with EmbeddedPostgres(EmbeddedOptions(settings.data_dir / "postgres")) as postgres:
        yield postgres.dsn
