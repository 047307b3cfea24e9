"""Roles that do not own everything in `public`: one that owns nothing, and one with a schema of its own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import pytest

from pipeline import raw, stages
from runwire.assembly import Assembly
from runwire.db import Database
from runwire.db.grants import let_serve, make_days
from runwire.db.migrate import migrate
from runwire.db.partitions import PartitionForbidden, PartitionUpkeep
from runwire.db.tenancy import TENANT_ROLE, check_isolation
from runwire.errors import ConfigurationError, MigrationError, PartitionMissing
from runwire.model.event import Source, debug_trace
from runwire.orchestrate import StartRequest
from test_assembly import ended, settings, start, streamed
from waiting import eventually


@asynccontextmanager
async def role(admin_dsn: str) -> AsyncIterator[tuple[str, str]]:
    """(name, DSN for the same database) of a role that may log in and owns nothing."""
    name = f"serves_{uuid.uuid4().hex[:10]}"
    admin = await raw(admin_dsn)
    try:
        await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
        parts = urlsplit(admin_dsn)
        yield name, urlunsplit(parts._replace(netloc=f"{name}:x@{parts.netloc.rpartition('@')[2]}"))
    finally:
        await admin.execute(f"DROP OWNED BY {name}")
        await admin.execute(f"DROP ROLE {name}")
        await admin.close()


async def test_a_role_that_may_not_change_the_schema_serves_a_migrated_database(database: str) -> None:
    async with role(database) as (name, dsn):
        await let_serve(database, role=name)
        await let_serve(database, role=name)  # again, as after each migration
        async with Assembly(settings(dsn, bus="postgres", agents=())) as service:
            run_id = await start(service.url)
            view = await ended(service.url, run_id)
            assert view["outcome"] == "finished"
            assert await streamed(service.url, run_id) == list(range(14))


async def test_it_has_days_made_and_isolates_tenants(database: str) -> None:
    async with role(database) as (name, dsn):
        await let_serve(database, role=name)
        async with stages(dsn) as line:
            fence = await line.started_run("r")
            await line.database.execute("UPDATE runs SET run_day = '2031-03-04'")
            await line.log.append("r", [debug_trace("x")], fence=fence, source=Source.API)
            await check_isolation(line.database)
            for tenant in ("a", "b"):
                control = line.control.on_behalf_of(tenant)
                await control.start(StartRequest(run_id=f"{tenant}:r", external=True))
                assert [run.run_id for run in (await control.page()).runs] == [f"{tenant}:r"]


async def test_one_that_may_not_have_days_made_goes_on_until_they_run_out_and_says_what_to_grant(database: str) -> None:
    async with role(database) as (name, dsn):
        await let_serve(database, role=name)
        owner = await raw(database)
        await owner.execute(f"REVOKE EXECUTE ON FUNCTION make_event_partition(date) FROM {name}")
        async with stages(dsn) as line:
            assert await PartitionUpkeep(line.database, days_ahead=7).ensure() == 0
            with pytest.raises(PartitionForbidden, match="GRANT EXECUTE ON FUNCTION make_event_partition"):
                await PartitionUpkeep(line.database, days_ahead=9).ensure()
            fence = await line.started_run("r")
            await line.database.execute("UPDATE runs SET run_day = (now() AT TIME ZONE 'UTC')::date + 9")
            with pytest.raises(PartitionMissing, match="GRANT EXECUTE ON FUNCTION make_event_partition"):
                await line.log.append("r", [debug_trace("x")], fence=fence, source=Source.API)
            assert await make_days(database, ahead=9) == 2
            await line.log.append("r", [debug_trace("x")], fence=fence, source=Source.API)
        # A process starts on what days there are.
        await owner.execute("DELETE FROM runs")
        async with Assembly(settings(dsn, partition_days_ahead=20, agents=())) as service:
            assert (await ended(service.url, await start(service.url)))["outcome"] == "finished"
        await owner.close()


async def test_grants_let_those_pass_whom_their_locks_would_hold_up(database: str) -> None:
    """A session that reads one table after the other, in another order than they are granted in, is no deadlock."""
    async with role(database) as (name, _):
        reader, watcher = await raw(database), await raw(database)
        tables = [
            row["name"]
            for row in await watcher.fetch(
                "SELECT c.oid::regclass::text AS name FROM pg_class AS c WHERE c.relkind IN ('r', 'p')"
                " AND c.relrowsecurity AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace"
            )
        ]
        async with reader.transaction():
            await reader.fetch(f"SELECT FROM {tables[-1]} LIMIT 1")  # our own
            granting = asyncio.create_task(let_serve(database, role=name))

            async def waits() -> bool:
                return bool(
                    await watcher.fetchval(
                        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                        " AND wait_event_type = 'Lock' AND query LIKE '%let_serve%'"
                    )
                )

            await eventually(waits, within_s=20)
            for table in tables:
                await reader.fetch(f"SELECT FROM {table} LIMIT 1")
        await asyncio.wait_for(granting, 30)
        assert await watcher.fetchval("SELECT has_table_privilege($1, 'runs', 'SELECT')", name)
        for connection in (reader, watcher):
            await connection.close()


async def test_a_role_that_may_not_migrate_is_told_what_and_by_whom(database: str) -> None:
    async with role(database) as (name, dsn):
        owner = await raw(database)
        await owner.execute("DELETE FROM runwire_migrations WHERE name > '0010'")
        await owner.close()
        with pytest.raises(MigrationError, match="permission denied for table runwire_migrations"):
            await migrate(dsn)
        await let_serve(database, role=name)
        with pytest.raises(MigrationError, match=r"must be owner of \w+ \w+.*GRANT"):
            await migrate(dsn)
        with pytest.raises(ConfigurationError, match="the owner of the tables may"):
            await let_serve(dsn, role=name)
    with pytest.raises(ConfigurationError, match="no PostgreSQL role"):
        await let_serve(database, role="nobody_of_that_name")


async def test_a_schema_named_after_its_user_has_everything_tenants_too(database: str) -> None:
    """`"$user", public` finds it as the user, and would not as the role that tenants' statements take."""
    async with role(database) as (name, dsn):
        admin = await raw(database)
        await admin.execute("DROP SCHEMA public CASCADE")
        await admin.execute(f"CREATE SCHEMA AUTHORIZATION {name}")
        await admin.execute(f"GRANT {TENANT_ROLE} TO {name}")
        await migrate(dsn)
        async with Database(dsn) as own:
            assert (
                await own.fetchval("SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'runs'")
                == name
            )
        async with stages(dsn) as line:
            await check_isolation(line.database)
            for tenant in ("a", "b"):
                control = line.control.on_behalf_of(tenant)
                await control.start(StartRequest(run_id=f"{tenant}:r", external=True))
                assert [run.run_id for run in (await control.page()).runs] == [f"{tenant}:r"]
                await control.cancel(f"{tenant}:r")
        await admin.close()


async def test_one_whose_tenants_may_not_read_content_says_what_the_owner_runs(database: str) -> None:
    async with role(database) as (name, dsn):
        await let_serve(database, role=name)
        owner = await raw(database)
        await owner.execute(f"REVOKE SELECT ON parts FROM {TENANT_ROLE}")  # noqa: S608  # a constant
        await owner.close()
        async with stages(dsn) as line:
            with pytest.raises(ConfigurationError, match=r"runwire_isolate_parts\(\)"):
                await check_isolation(line.database)
        async with stages(database) as line:
            await check_isolation(line.database)
