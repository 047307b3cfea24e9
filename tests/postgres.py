"""The one PostgreSQL server of a test run, and databases cloned from a migrated template."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres
from runwire.db.migrate import migrate

T = TypeVar("T")

TEMPLATE = "migrated"
# Nothing here has to survive a power cut, and autovacuum in a cloned database only disturbs.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "128MB",
    "max_connections": "300",
}


class RunServer:
    """Owned by the process that runs pytest (with xdist: the controller); starts when first asked for."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._postgres: EmbeddedPostgres | None = None
        self._folder: Path | None = None
        self._starting = threading.Lock()

    def dsn(self) -> str:
        """Of an administrator's database; the template is there and migrated."""
        with self._starting:
            if self._postgres is None:
                self._start()
            assert self._postgres is not None
            return self._postgres.dsn

    def _start(self) -> None:
        # A loop of its own: the server is watched across tests, each of which has another loop.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test-postgres", daemon=True)
        self._thread.start()
        self._folder = Path(tempfile.mkdtemp(prefix="runwire-tests-"))
        postgres = EmbeddedPostgres(EmbeddedOptions(self._folder / "postgres", settings=SETTINGS))
        self._run(postgres.start())
        self._postgres = postgres
        self._run(_make_template(postgres.dsn))

    def stop(self) -> None:
        """Shuts the server down and removes its files, when it was ever started."""
        if self._loop is None:
            return
        if self._postgres is not None:
            self._run(self._postgres.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not None:
            self._thread.join()
        self._loop.close()
        if self._folder is not None:
            shutil.rmtree(self._folder)
        self._loop = self._thread = self._postgres = self._folder = None

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _make_template(admin_dsn: str) -> None:
    async with _connected(admin_dsn) as admin:
        await admin.execute(f'CREATE DATABASE "{TEMPLATE}"')
    await migrate(with_database(admin_dsn, TEMPLATE))


@asynccontextmanager
async def cloned_database(admin_dsn: str) -> AsyncIterator[str]:
    """The DSN of a new, migrated, empty database, which is gone afterwards, whoever is still connected."""
    async with _new_database(admin_dsn, like=f'TEMPLATE "{TEMPLATE}" STRATEGY {STRATEGY}') as dsn:
        yield dsn


@asynccontextmanager
async def empty_database(admin_dsn: str) -> AsyncIterator[str]:
    """The same with nothing in it, not even a schema."""
    async with _new_database(admin_dsn) as dsn:
        yield dsn


@asynccontextmanager
async def _new_database(admin_dsn: str, *, like: str = "") -> AsyncIterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    async with _connected(admin_dsn) as admin:
        await admin.execute(f'CREATE DATABASE "{name}" {like}')
    try:
        yield with_database(admin_dsn, name)
    finally:
        async with _connected(admin_dsn) as admin:
            await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


# FILE_COPY checkpoints twice, which is cheap without fsync; WAL_LOG writes every page through the buffers.
STRATEGY = "FILE_COPY"


def with_database(dsn: str, name: str) -> str:
    """The same server's DSN for another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()
