"""Statements on behalf of one tenant: PostgreSQL's row-level security shows them that tenant's rows, and no others.

Each runs in a transaction that takes the role `runwire_tenant`, which owns nothing and may do little, and says whose
rows it means. Internal work (appending, publishing, walking, watching) runs as the owner of the tables, to whom
policies do not apply: one of its batches has runs of many tenants.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from runwire.db.database import Database
from runwire.db.privileges import forbidden
from runwire.db.transaction import Row, Transaction
from runwire.errors import ConfigurationError, DatabaseFailed, DatabaseUnavailable

T = TypeVar("T")

TENANT_ROLE: Final = "runwire_tenant"
_BECOME: Final = """
SELECT set_config('search_path', (SELECT string_agg(quote_ident(s), ', ') FROM unnest(current_schemas(false)) AS s),
                  true),
       set_config('role', $1, true), set_config('runwire.tenant', $2, true)"""
"""As SET LOCAL: all end with the transaction, so the connection goes back to the pool as what it was.

The search path is spelled out first: a schema found as "$user" would be another one for the other role.
"""

_ISOLATE: Final = (
    "SELECT runwire_isolate_tenants(), runwire_isolate_content(), runwire_isolate_parts(), runwire_isolate_streams()"
)
_LOOK: Final = """
SELECT count(*) AS seen,
       (SELECT bool_and(has_table_privilege(t, 'SELECT'))
        FROM unnest('{artifacts,content_blobs,parts,part_chunks,stream_checkpoints}'::text[]) AS t) AS granted
FROM runs"""


class Statements(Protocol):
    """Runs statements: the database itself, or a tenant's view of it."""

    async def fetch(self, sql: str, *args: object, within_s: float | None = None) -> list[Row]: ...
    async def fetchrow(self, sql: str, *args: object) -> Row | None: ...
    async def execute(self, sql: str, *args: object) -> str: ...
    async def in_transaction(self, work: Callable[[Transaction], Awaitable[T]]) -> T: ...


class TenantDatabase:
    """The database as one tenant sees it. Raises what Database raises."""

    def __init__(self, database: Database, *, tenant: str) -> None:
        self._database = database
        self._tenant = tenant

    async def fetch(self, sql: str, *args: object, within_s: float | None = None) -> list[Row]:
        return await self.in_transaction(lambda transaction: transaction.fetch(sql, *args, within_s=within_s))

    async def fetchrow(self, sql: str, *args: object) -> Row | None:
        return await self.in_transaction(lambda transaction: transaction.fetchrow(sql, *args))

    async def execute(self, sql: str, *args: object) -> str:
        return await self.in_transaction(lambda transaction: transaction.execute(sql, *args))

    async def in_transaction(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        async def by_tenant(transaction: Transaction) -> T:
            await transaction.fetchrow(_BECOME, TENANT_ROLE, self._tenant)
            return await work(transaction)

        return await self._database.in_transaction(by_tenant)


def seen_by(database: Database, tenant: str | None) -> Statements:
    """The database as the tenant sees it; None sees all of it."""
    return database if tenant is None else TenantDatabase(database, tenant=tenant)


async def check_isolation(database: Database) -> None:
    """Passes a database that isolates tenants, having made what is missing if it may.

    Raises ConfigurationError with the statements an administrator has to run, where creating roles is refused.
    """
    try:
        await database.execute(_ISOLATE)
    except DatabaseFailed as error:
        if not forbidden(error):
            raise
        # Only the owner of the tables may do it. The next statement shows whether the owner has.
    try:
        # Nobody's tenant: whatever is seen by it, tenants would see of each other.
        row = await TenantDatabase(database, tenant="").fetchrow(_LOOK)
    except DatabaseFailed as error:
        if isinstance(error, DatabaseUnavailable) and not forbidden(error):
            raise
        problem = (
            f"PostgreSQL does not let this user take the role {TENANT_ROLE}, which isolates tenants; an administrator "
            f"runs `CREATE ROLE {TENANT_ROLE} NOLOGIN; GRANT {TENANT_ROLE} TO <this user>;`, the owner of the tables "
            f"`{_ISOLATE}`, or RUNWIRE_TENANTS=false says that there is one tenant"
        )
        raise ConfigurationError((problem,)) from error
    if row is None or row["seen"]:
        raise ConfigurationError((f"the role {TENANT_ROLE} sees runs of any tenant: it must not have BYPASSRLS",))
    if not row["granted"]:
        raise ConfigurationError(
            (f"the role {TENANT_ROLE} may not read content: the owner of the tables runs `{_ISOLATE}`",)
        )
