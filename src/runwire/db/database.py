"""The database of a process: a pool for short statements, sessions of their own for the hot paths, errors as ours."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Self, TypeVar

from runwire.clock import monotonic
from runwire.db.connection import BASE_SETTINGS, SESSION_SETTINGS, Connection, Door, cut
from runwire.db.pool import Pool
from runwire.db.session import Session
from runwire.db.settings import DEFAULTS
from runwire.db.transaction import Row, Transaction, read, transacting
from runwire.db.translation import spoils, translated
from runwire.db.troubles import Attempts, Troubles
from runwire.duties import Duty
from runwire.errors import DatabaseFailed, DatabaseUnavailable

T = TypeVar("T")

_SET_LOCAL: Final = "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in BASE_SETTINGS.items())
_CLOSE_S: Final = 2.0


class Database:
    """The pool for short statements. Enter it to open it; `session` gives connections outside of it.

    With `direct_dsn`, `dsn` is that of a pooler in transaction mode, such as PgBouncer: there the next client inherits
    a session's state. So each statement of the pool is a transaction with its own settings and leaves nothing prepared,
    and whatever lives on a session (the hot paths, LISTEN, leases) goes to `direct_dsn`.

    A sent statement runs to its end even if its caller leaves: cancelling it would take a second connection, and cost
    the first.
    """

    def __init__(
        self,
        dsn: str,
        *,
        direct_dsn: str | None = None,
        pool_size: int = DEFAULTS.db_pool_size,
        timeout_s: float = DEFAULTS.db_timeout_s,
        name: str = "pool",
        on_wait: Callable[[float], None] = lambda _seconds: None,
        troubles: Troubles | None = None,
    ) -> None:
        """`troubles`: of the process, where there are several databases in one."""
        self.dsn = direct_dsn or dsn
        """The DSN of PostgreSQL itself, for LISTEN and sessions."""
        self.troubles = Troubles() if troubles is None else troubles
        """The troubles of this database, for readiness and metrics."""
        self._through_pooler = direct_dsn is not None
        self._timeout_s = timeout_s
        self._on_wait = on_wait
        self._pool_size = pool_size
        how: dict[str, Any] = {"statement_cache_size": 0} if self._through_pooler else {}
        settings = {} if self._through_pooler else SESSION_SETTINGS  # a pooler takes few at the start
        self._door = Door(dsn, name, timeout_s, settings, self.troubles, how=how)
        self._pool: Pool | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._working: set[asyncio.Task[Any]] = set()
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._pool = Pool(self._door, size=self._pool_size, timeout_s=self._timeout_s)
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in tuple(self._sessions):
            await session.give_up()
        if self._pool is not None:
            await self._pool.close(within_s=_CLOSE_S)
        if self._working:  # their connections are cut by now
            await asyncio.wait(self._working, timeout=_CLOSE_S)

    @property
    def in_use(self) -> int:
        """Connections of the pool that are in use."""
        return 0 if self._pool is None else self._pool.lent

    def attempts(self, duty: Duty, **how: Any) -> Attempts:
        """Wraps the steps of a loop on this database: waits out the database's errors and reports them."""
        return Attempts(duty, self.troubles, **how)

    async def fetch(self, sql: str, *args: object, within_s: float | None = None) -> list[Row]:
        """With `within_s` it raises ReadTimedOut when the statement takes longer."""
        return await self._to_its_end(
            await self._acquired(), lambda connection: read(connection, sql, args, within_s=within_s)
        )

    async def fetchrow(self, sql: str, *args: object) -> Row | None:
        return await self._to_its_end(await self._acquired(), lambda connection: connection.fetchrow(sql, *args))

    async def fetchval(self, sql: str, *args: object) -> Any:
        return await self._to_its_end(await self._acquired(), lambda connection: connection.fetchval(sql, *args))

    async def execute(self, sql: str, *args: object) -> str:
        return await self._to_its_end(await self._acquired(), lambda connection: connection.execute(sql, *args))

    async def executemany(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        await self._to_its_end(await self._acquired(), lambda connection: connection.executemany(sql, rows))

    async def in_transaction(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Returns the result of the work, committed. Like a single statement, it runs to its end even if the caller
        leaves.

        For a few short statements. Work that waits for anything else is for `transaction`, which ends with its block.
        """

        async def transacted(connection: Connection) -> T:
            async with transacting(connection) as transaction:
                await self._prepare(connection)
                return await work(transaction)

        return await self._to_its_end(await self._acquired(), transacted, bare=False)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commits at the end of the block, rolls back when it raises; a block that is cancelled costs a connection."""
        connection = await self._acquired()
        try:
            async with transacting(connection) as transaction:
                await self._prepare(connection)
                yield transaction
        except DatabaseFailed as error:
            if spoils(error):
                cut(connection)
            raise
        finally:
            self._release(connection)

    def session(self, name: str, *, settings: Mapping[str, str] | None = None) -> Session:
        """A connection of its own, outside the pool; `settings` are PostgreSQL parameters for it."""
        session = Session(self.door(name, settings=settings, timeout_s=self._timeout_s))
        self._sessions.add(session)
        return session

    def door(self, name: str, *, timeout_s: float, settings: Mapping[str, str] | None = None) -> Door:
        """Opens connections to PostgreSQL itself. While the server has no room for one, the pool keeps few
        connections.
        """
        return Door(self.dsn, name, timeout_s, {**SESSION_SETTINGS, **(settings or {})}, self.troubles, self._make_room)

    async def _acquired(self) -> Connection:
        if self._pool is None:
            raise DatabaseUnavailable("the pool is closed")
        asked = monotonic()
        connection = await self._pool.acquire()
        self._on_wait(monotonic() - asked)
        return connection

    async def _to_its_end(
        self, connection: Connection, work: Callable[[Connection], Awaitable[T]], *, bare: bool = True
    ) -> T:
        """`bare`: the work is one statement, without a transaction around it."""
        task = asyncio.create_task(self._worked(connection, work, bare=bare), name="database work")
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return await asyncio.shield(task)

    async def _worked(self, connection: Connection, work: Callable[[Connection], Awaitable[T]], *, bare: bool) -> T:
        try:
            if bare and self._through_pooler:
                # Parse and execute are two exchanges: only a transaction holds both to one server connection.
                async with transacting(connection):
                    await self._prepare(connection)
                    with translated:
                        return await work(connection)
            if not bare:
                return await work(connection)
            with translated:
                return await work(connection)
        except DatabaseFailed as error:
            if spoils(error):
                cut(connection)
            raise
        except asyncio.CancelledError:
            cut(connection)
            raise
        finally:
            self._release(connection)

    async def _prepare(self, connection: Connection) -> None:
        """Begins each transaction of a pooler's connection with the session settings that our own connections open
        with.
        """
        if self._through_pooler:
            with translated:
                await connection.execute(_SET_LOCAL)

    def _release(self, connection: Connection) -> None:
        assert self._pool is not None  # noqa: S101  # it is from there
        self._pool.release(connection)

    def _make_room(self) -> None:
        """Called in the thread of a session, which may have an event loop of its own."""
        if self._pool is not None and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # that loop is closed, and the pool with it
                self._loop.call_soon_threadsafe(self._pool.make_room)
