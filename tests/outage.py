"""A database that is away: its sessions are ended, and it takes no new ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from pipeline import raw
from runwire.db import Database


class Outage:
    """`begin` and `end` it as often as you like. It strikes the database at `dsn`, on the server of `admin_dsn`."""

    def __init__(self, admin_dsn: str, dsn: str) -> None:
        self._admin_dsn = admin_dsn
        self._name = urlsplit(dsn).path.removeprefix("/")
        self.begun = asyncio.Event()

    async def begin(self) -> None:
        await self._allow(connections=False)
        admin = await raw(self._admin_dsn)
        try:
            await admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", self._name
            )
        finally:
            await admin.close()
        self.begun.set()

    async def end(self) -> None:
        await self._allow(connections=True)

    async def _allow(self, *, connections: bool) -> None:
        admin = await raw(self._admin_dsn)
        try:
            await admin.execute(f'ALTER DATABASE "{self._name}" ALLOW_CONNECTIONS {connections}')
        finally:
            await admin.close()


class Striking:
    """A database that calls `strike` once, just before the first statement of that name."""

    def __init__(self, database: Database, name: str, strike: Callable[[], Awaitable[None]]) -> None:
        self._database = database
        self._mark = f"/* {name} */"
        self._strike: Callable[[], Awaitable[None]] | None = strike

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def fetch(self, sql: str, *args: object, **how: Any) -> Any:
        await self._before(sql)
        return await self._database.fetch(sql, *args, **how)

    async def fetchrow(self, sql: str, *args: object) -> Any:
        await self._before(sql)
        return await self._database.fetchrow(sql, *args)

    async def _before(self, sql: str) -> None:
        if self._strike is not None and sql.startswith(self._mark):
            strike, self._strike = self._strike, None
            await strike()
