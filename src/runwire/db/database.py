"""Connections to PostgreSQL: a pool for short reads, sessions of their own for the hot paths, errors as ours."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self, TypeAlias

import asyncpg

from runwire.clock import monotonic
from runwire.errors import DatabaseUnavailable, RunwireError

Row: TypeAlias = asyncpg.Record
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_TRANSIENT = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ObjectNotInPrerequisiteStateError,  # the database takes no connections
    asyncpg.ProgramLimitExceededError,  # the queue of notifications is full
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InternalClientError,
)
_BASE_SETTINGS = {"jit": "off", "timezone": "UTC"}
_SET_LOCAL = "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in _BASE_SETTINGS.items())


class ConstraintViolated(RunwireError):
    """The database refused a statement because of a constraint, or a value no column takes; nothing was stored."""

    code = "constraint"

    def __init__(self, constraint: str) -> None:
        super().__init__(f"constraint {constraint or 'unknown'} holds")
        self.constraint = constraint


class NoPartition(ConstraintViolated):
    """A row belongs into a partition that does not exist; nothing was stored."""


@contextmanager
def translated_errors() -> Iterator[None]:
    """Inside, failures of connection or server become DatabaseUnavailable, refused values ConstraintViolated."""
    try:
        yield
    except asyncpg.IntegrityConstraintViolationError as error:
        if isinstance(error, asyncpg.CheckViolationError) and getattr(error, "constraint_name", None) is None:
            raise NoPartition("partition") from error  # the one check violation that no constraint has made
        raise ConstraintViolated(getattr(error, "constraint_name", None) or "") from error
    except asyncpg.DataError as error:
        raise ConstraintViolated(type(error).__name__) from error
    except _TRANSIENT as error:
        raise DatabaseUnavailable(f"PostgreSQL: {_kind(error)}") from error


def _kind(error: BaseException) -> str:
    """`too many connections` of TooManyConnectionsError: never the server's words, which may name who asked."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__.removesuffix("Error")).lower()


class Transaction:
    """Statements of one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        return await self._connection.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: object) -> Row | None:
        return await self._connection.fetchrow(sql, *args)

    async def execute(self, sql: str, *args: object) -> str:
        return await self._connection.execute(sql, *args)


@asynccontextmanager
async def _transaction(connection: Connection) -> AsyncIterator[Transaction]:
    """Commits at the end of the block, rolls back when it raises.

    Where neither was answered, or the block was cancelled, nobody knows what the connection is in the middle of, and it
    is cut. A cancelled block does not try to roll back: ROLLBACK would wait for the statement that was cancelled, as
    long as the server likes.
    """
    transaction, over = connection.transaction(), False
    try:
        await transaction.start()
        try:
            yield Transaction(connection)
        except Exception:
            await transaction.rollback()
            over = True
            raise
        await transaction.commit()
        over = True
    finally:
        if not over:
            _cut(connection)


def _cut(connection: Connection | asyncpg.pool.PoolConnectionProxy[Row]) -> None:
    """Ends a connection at once, and with it what it was doing; it may have ended already."""
    with contextlib.suppress(asyncpg.InterfaceError):  # what a pool lent is no longer ours once it has ended
        connection.terminate()


async def _leave_as_it_is(_connection: object) -> None:
    """Resets a connection that is given back to the pool, which costs no exchange.

    No statement of the pool leaves anything behind in its session; asyncpg has rolled back what was open. A pooler's
    connection belongs to somebody else by then.
    """


class Session:
    """One connection of its own, opened on first use and again after it failed; used by one task at a time."""

    def __init__(self, dsn: str, *, name: str, settings: Mapping[str, str], timeout_s: float) -> None:
        self._dsn = dsn
        self._settings = {**_BASE_SETTINGS, "application_name": f"runwire {name}", **settings}
        self._timeout_s = timeout_s
        self._connection: Connection | None = None
        self.opened = 0
        """How many connections it has had: what a connection held, such as a lock, the next one does not."""

    @property
    def is_open(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        """Rows of a statement in a transaction of its own. Raises DatabaseUnavailable or ConstraintViolated."""
        with translated_errors():
            connection = await self._open()
            try:
                return await connection.fetch(sql, *args)
            except _TRANSIENT:
                self._drop()
                raise

    async def fetchrow(self, sql: str, *args: object) -> Row | None:
        rows = await self.fetch(sql, *args)
        return rows[0] if rows else None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commits at the end of the block, rolls back when it raises."""
        with translated_errors():
            connection = await self._open()
            try:
                async with _transaction(connection) as transaction:
                    yield transaction
            except _TRANSIENT:
                self._drop()
                raise

    async def aclose(self) -> None:
        """Closes the connection, in two seconds at most, whether the server still answers or not."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*_TRANSIENT):
                await connection.close(timeout=2)

    async def _open(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                self._dsn,
                server_settings=self._settings,
                command_timeout=self._timeout_s,
                timeout=self._timeout_s,
            )
            self.opened += 1
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            _cut(connection)


class Database:
    """The pool for short statements. Enter it to open it; `session` gives connections outside of it.

    With `direct_dsn`, `dsn` is that of a pooler in transaction mode, such as PgBouncer: there a session's state belongs
    to whoever comes next. So each statement of the pool is a transaction with its own settings and leaves nothing
    prepared, and whatever lives on a session (the hot paths, LISTEN, leases) goes to `direct_dsn`.
    """

    def __init__(
        self,
        dsn: str,
        *,
        direct_dsn: str | None = None,
        pool_size: int = 10,
        timeout_s: float = 10.0,
        name: str = "pool",
        on_wait: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self.dsn = direct_dsn or dsn
        """Of PostgreSQL itself, for who listens or needs a session."""
        self._pool_dsn = dsn
        self._through_pooler = direct_dsn is not None
        self._pool_size = pool_size
        self._timeout_s = timeout_s
        self._name = name
        self._on_wait = on_wait
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def __aenter__(self) -> Self:
        name = {"application_name": f"runwire {self._name}"}
        how: dict[str, Any] = {"server_settings": {**_BASE_SETTINGS, **name}}
        if self._through_pooler:
            how = {"server_settings": name, "statement_cache_size": 0}
        with translated_errors():
            self._pool = await asyncpg.create_pool(
                self._pool_dsn,
                min_size=0,
                max_size=self._pool_size,
                timeout=self._timeout_s,
                command_timeout=self._timeout_s,
                max_inactive_connection_lifetime=300,
                reset=_leave_as_it_is,
                **how,
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pool is not None:
            pool, self._pool = self._pool, None
            with contextlib.suppress(*_TRANSIENT):  # a pool that cannot be closed terminates its connections
                await asyncio.wait_for(pool.close(), timeout=2)

    @property
    def in_use(self) -> int:
        """Connections of the pool that are at work."""
        return 0 if self._pool is None else self._pool.get_size() - self._pool.get_idle_size()

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        async with self._for_one_statement() as connection:
            return await connection.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: object) -> Row | None:
        async with self._for_one_statement() as connection:
            return await connection.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: object) -> Any:
        async with self._for_one_statement() as connection:
            return await connection.fetchval(sql, *args)

    async def execute(self, sql: str, *args: object) -> str:
        async with self._for_one_statement() as connection:
            return await connection.execute(sql, *args)

    async def executemany(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        async with self._for_one_statement() as connection:
            await connection.executemany(sql, rows)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with self._acquired() as connection, _transaction(connection) as transaction:
            if self._through_pooler:
                await connection.execute(_SET_LOCAL)
            yield transaction

    def session(self, name: str, *, settings: Mapping[str, str] | None = None) -> Session:
        """A connection of its own, outside the pool; `settings` are PostgreSQL parameters for it."""
        return Session(self.dsn, name=name, settings=settings or {}, timeout_s=self._timeout_s)

    @asynccontextmanager
    async def _for_one_statement(self) -> AsyncIterator[Connection]:
        async with self._acquired() as connection:
            if not self._through_pooler:
                yield connection
                return
            # Parse and execute are two exchanges: only a transaction holds both to one server connection.
            async with _transaction(connection):
                await connection.execute(_SET_LOCAL)
                yield connection

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Connection]:
        if self._pool is None:
            raise DatabaseUnavailable("the pool is closed")
        with translated_errors():
            asked = monotonic()
            async with self._pool.acquire(timeout=self._timeout_s) as connection:
                self._on_wait(monotonic() - asked)
                try:
                    yield connection  # type: ignore[misc]  # the pool's proxy is used as the connection it stands for
                except asyncio.CancelledError:
                    # Else the pool waits until the statement is cancelled, too, and its time-out hides that we were.
                    _cut(connection)
                    raise
