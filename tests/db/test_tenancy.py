"""Row-level security itself: what SQL can and cannot do as the tenants' role, whoever wrote it."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from pipeline import raw, stages
from runwire.db import Database, seen_by
from runwire.db.migrate import migrate
from runwire.db.tenancy import TENANT_ROLE, check_isolation
from runwire.errors import ConfigurationError, DatabaseUnavailable
from runwire.orchestrate import StartRequest

TABLES = ("runs", "run_events", "run_outbox", "run_checkpoints", "run_signals", "run_losses", "run_blocks", "parts")

CONTENT = ("artifacts", "content_blobs")
"""Tables of content that tenants may read, and those that only the service uses."""
HIDDEN_CONTENT = ("content_objects", "content_usage")

ROWS = """
INSERT INTO runs (run_id, tenant, agent, state, last_seq, started_at, request_hash, input)
VALUES ('a:r', 'a', 'x', 'started', 1, now(), '', ''), ('b:r', 'b', 'x', 'started', 1, now(), '', '');
INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source)
SELECT run_day, run_id, 1, 1, 'RunStarted', 'api' FROM runs;
INSERT INTO run_outbox (run_id, run_day) SELECT run_id, run_day FROM runs;
INSERT INTO run_checkpoints (run_id, seq, next_node, state) SELECT run_id, 1, 'N', '' FROM runs;
INSERT INTO run_signals (run_id, name) SELECT run_id, 'go' FROM runs;
INSERT INTO parts (run_id, n, name, media_type, opened_seq) SELECT run_id, 1, 'p', 'text/plain', 1 FROM runs;
INSERT INTO part_chunks SELECT part_id, 0, run_id::text::bytea FROM parts;
INSERT INTO run_losses (run_id, losses, seq, fence, worker_id) SELECT run_id, 1, 1, 1, 'w' FROM runs;
INSERT INTO run_blocks (run_id, worker_id, node, at, blocked_s) SELECT run_id, 'w', 'N', 'f.py:1', 1 FROM runs;
"""


CONTENT_ROWS = """
INSERT INTO content_blobs (tenant, sha256, size, data) SELECT tenant, sha256('x'), 1, 'x' FROM runs;
INSERT INTO artifacts (run_id, n, tenant, name, media_type, size, sha256, seq)
SELECT run_id, 1, tenant, 'x', 'text/plain', 1, sha256('x'), 1 FROM runs;
INSERT INTO content_objects (object, tenant, size) SELECT 'o' || tenant, tenant, 1 FROM runs;
"""


@pytest.fixture
async def two_tenants(database: str) -> str:
    """A database with a run of tenant `a` and one of `b`, each with a row in every table."""
    connection = await raw(database)
    await connection.execute(ROWS)
    await connection.close()
    return database


@asynccontextmanager
async def as_tenant(dsn: str, tenant: str | None) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection that has become the tenants' role and cannot go back; with None it names no tenant."""
    connection = await raw(dsn)
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL ROLE {TENANT_ROLE}")
            if tenant is not None:
                await connection.execute("SELECT set_config('runwire.tenant', $1, true)", tenant)
            yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize("table", TABLES)
async def test_a_tenant_sees_its_own_rows_of_every_table(two_tenants: str, table: str) -> None:
    async with as_tenant(two_tenants, "a") as a:
        seen = {row["run_id"] for row in await a.fetch(f"SELECT run_id FROM {table}")}  # noqa: S608
    assert seen == {"a:r"}


async def test_a_tenant_sees_its_own_content_and_erases_no_other(two_tenants: str) -> None:
    owner = await raw(two_tenants)
    try:
        await owner.execute(CONTENT_ROWS)
        async with as_tenant(two_tenants, "a") as a:
            for table in CONTENT:
                assert {row[0] for row in await a.fetch(f"SELECT tenant FROM {table}")} == {"a"}  # noqa: S608
            assert await a.execute("UPDATE artifacts SET sha256 = NULL, erased_at = now()") == "UPDATE 1"
            for table in HIDDEN_CONTENT:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with a.transaction():
                        await a.fetch(f"SELECT 1 FROM {table}")  # noqa: S608
            for change in ("DELETE FROM content_blobs", "UPDATE artifacts SET name = 'x'", "DELETE FROM artifacts"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with a.transaction():
                        await a.execute(change)
        assert await owner.fetchval("SELECT run_id FROM artifacts WHERE erased_at IS NULL") == "b:r"
    finally:
        await owner.close()


async def test_a_tenant_sees_the_bytes_of_its_own_parts(two_tenants: str) -> None:
    async with as_tenant(two_tenants, "a") as a:
        assert [row["bytes"] for row in await a.fetch("SELECT bytes FROM part_chunks")] == [b"a:r"]


async def test_a_tenant_sees_its_own_checkpoints_of_streams(two_tenants: str) -> None:
    owner = await raw(two_tenants)
    await owner.execute(
        "INSERT INTO stream_checkpoints (key, tenant, selector, since_us, runs, positions) "
        "VALUES (1, 'a', '', 0, '{a:r}', ''), (2, 'b', '', 0, '{b:r}', ''), (3, '', '', 0, '{r}', '')"
    )
    await owner.close()
    for tenant, seen in (("a", [1]), ("b", [2]), ("", []), (None, [])):
        async with as_tenant(two_tenants, tenant) as who:
            assert [row["key"] for row in await who.fetch("SELECT key FROM stream_checkpoints")] == seen


async def test_lists_of_runs_are_of_the_tenant_that_asks(two_tenants: str) -> None:
    sql = "SELECT id FROM find_runs($1, $2, NULL, '{}', NULL, NULL, NULL, NULL, NULL, 'infinity', '', 10, 10)"
    async with as_tenant(two_tenants, "a") as a:
        for by_end in (False, True):
            assert {row["id"] for row in await a.fetch(sql, "a", by_end)} == (set() if by_end else {"a:r"})
            assert await a.fetch(sql, "b", by_end) == []


async def test_functions_of_the_owner_look_into_temporary_tables_last(two_tenants: str) -> None:
    """A caller who may make temporary tables shows a function of the owner's none of them."""
    owner = await raw(two_tenants)
    try:
        for function, path in await owner.fetch(
            "SELECT p.oid::regprocedure::text, array_to_string(p.proconfig, ' ') FROM pg_proc AS p"
            " WHERE p.prosecdef AND p.pronamespace = 'public'::regnamespace"
        ):
            assert "search_path=public, pg_temp" in path, function
        await owner.execute("CREATE TEMPORARY TABLE runs (LIKE public.runs INCLUDING DEFAULTS)")
        sql = "SELECT id FROM find_runs('a', false, NULL, '{}', NULL, NULL, NULL, NULL, NULL, 'infinity', '', 10, 10)"
        assert [row["id"] for row in await owner.fetch(sql)] == ["a:r"]
    finally:
        await owner.close()


@pytest.mark.parametrize("tenant", [None, "", "c", "A", "a'--"])
async def test_who_is_no_tenant_sees_nothing(two_tenants: str, tenant: str | None) -> None:
    async with as_tenant(two_tenants, tenant) as nobody:
        for table in TABLES:
            assert await nobody.fetchval(f"SELECT count(*) FROM {table}") == 0  # noqa: S608


async def test_joins_and_conditions_with_side_effects_show_no_foreign_row(two_tenants: str) -> None:
    async with as_tenant(two_tenants, "a") as a:
        rows = await a.fetch("SELECT r.run_id FROM run_events AS e FULL JOIN runs AS r USING (run_id)")
        assert {row[0] for row in rows} == {"a:r"}
        # A condition that fails on foreign rows would tell of them, were it looked at before the policy.
        assert await a.fetchval("SELECT count(*) FROM runs WHERE 1 / (run_id = 'a:r')::int = 1") == 1


FORBIDDEN = {
    "reads a partition past the policy": "SELECT * FROM {partition}",
    "reads the keys": "SELECT * FROM service_secrets",
    "reads migrations": "SELECT * FROM runwire_migrations",
    "reads publishers": "SELECT * FROM publishers",
    "moves a run to itself": "UPDATE runs SET tenant = 'a'",
    "takes a fence": "UPDATE runs SET fence = fence + 1",
    "changes a state": "UPDATE runs SET state = 'failed'",
    "renames a run": "UPDATE runs SET run_id = 'a:x'",
    "deletes runs": "DELETE FROM runs",
    "writes events": "INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source, fn) "
    "VALUES (current_date, 'a:r', 3, 1, 'DebugTrace', 'api', 'x')",
    "deletes events": "DELETE FROM run_events",
    "publishes": "UPDATE run_outbox SET next_seq = 99",
    "writes a checkpoint": "UPDATE run_checkpoints SET state = ''",
    "deletes signals": "DELETE FROM run_signals",
    "starts for another": "INSERT INTO runs (run_id, tenant, agent, request_hash, input) "
    "VALUES ('b:x', 'b', 'golden', '', '')",
    "starts for the default": "INSERT INTO runs (run_id, agent, request_hash, input) VALUES ('x', 'golden', '', '')",
    "starts a closed run": "INSERT INTO runs (run_id, tenant, agent, state, request_hash, input) "
    "VALUES ('a:x', 'a', 'golden', 'finished', '', '')",
    "signals another's run": "INSERT INTO run_signals (run_id, name) VALUES ('b:r', 'go2')",
    "publishes another's run": "INSERT INTO run_outbox (run_id, run_day) VALUES ('b:r', current_date)",
    "turns the policies off": "ALTER TABLE runs DISABLE ROW LEVEL SECURITY",
    "makes a policy": "CREATE POLICY mine ON runs USING (true)",
    "ignores the policies": "SET LOCAL row_security = off; SELECT * FROM runs",
    "truncates": "TRUNCATE run_signals",
    "reads labels": "SELECT * FROM run_labels",
    "writes a checkpoint of a stream": "INSERT INTO stream_checkpoints "
    "(key, tenant, selector, since_us, runs, positions) VALUES (1, 'a', '', 0, '{{}}', '')",
    "drops": "DROP TABLE run_signals",
    "makes tables": "CREATE TABLE mine (x int)",
}


@pytest.mark.parametrize("what", FORBIDDEN)
async def test_a_tenant_cannot(two_tenants: str, what: str) -> None:
    owner = await raw(two_tenants)
    partition = await owner.fetchval("SELECT tableoid::regclass::text FROM run_events LIMIT 1")
    await owner.close()
    async with as_tenant(two_tenants, "a") as a:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with a.transaction():
                await a.execute(FORBIDDEN[what].format(partition=partition))


async def test_what_a_tenant_may_do_to_rows_it_does_not_reach_others(two_tenants: str) -> None:
    async with as_tenant(two_tenants, "a") as a:
        assert await a.execute("UPDATE runs SET cancel_requested_at = now()") == "UPDATE 1"
        assert await a.execute("UPDATE run_signals SET sent_at = now()") == "UPDATE 1"
    owner = await raw(two_tenants)
    try:
        asked = await owner.fetch("SELECT run_id FROM runs WHERE cancel_requested_at IS NOT NULL")
        assert [row["run_id"] for row in asked] == ["a:r"]
    finally:
        await owner.close()


async def test_the_tenants_role_can_do_to_no_table_more_than_is_listed_here(two_tenants: str) -> None:
    """A table that is added is closed to tenants until somebody decides otherwise, here and in a migration."""
    owner = await raw(two_tenants)
    try:
        rows = await owner.fetch(
            "SELECT table_name, privilege_type FROM information_schema.role_table_grants WHERE grantee = $1",
            TENANT_ROLE,
        )
        open_to_tenants = (*TABLES, *CONTENT, "part_chunks", "stream_checkpoints")
        assert {tuple(row) for row in rows} == {(table, "SELECT") for table in open_to_tenants}
        unprotected = await owner.fetch(
            "SELECT relname FROM pg_class WHERE relname = ANY ($1::text[]) AND NOT relrowsecurity",
            (*open_to_tenants, "run_labels"),
        )
        assert unprotected == []
        role = await owner.fetchrow(
            "SELECT rolcanlogin, rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = $1", TENANT_ROLE
        )
        assert tuple(role or ()) == (False, False, False, False)
    finally:
        await owner.close()


async def test_a_connection_goes_back_to_the_pool_as_the_owner_even_after_an_error(two_tenants: str) -> None:
    async with Database(two_tenants, pool_size=2) as database:
        a = seen_by(database, "a")
        with pytest.raises(DatabaseUnavailable, match="insufficient privilege"):
            await a.execute("DELETE FROM runs")
        assert [row["run_id"] for row in await a.fetch("SELECT run_id FROM runs")] == ["a:r"]
        for _ in range(4):
            assert await database.fetchval("SELECT current_user <> $1", TENANT_ROLE) is True
            assert await database.fetchval("SELECT count(*) FROM runs") == 2


async def test_one_plan_serves_the_owner_and_the_tenants_each_with_its_own_rows(two_tenants: str) -> None:
    sql = "SELECT run_id FROM runs WHERE run_id = ANY ($1::text[]) ORDER BY run_id"
    async with Database(two_tenants, pool_size=2) as database:
        for _ in range(8):  # prepared statements get a generic plan after the fifth time
            seen = [
                [row["run_id"] for row in await seen_by(database, tenant).fetch(sql, ["a:r", "b:r"])]
                for tenant in (None, "a", "b")
            ]
            assert seen == [["a:r", "b:r"], ["a:r"], ["b:r"]]


async def test_look_ups_of_a_tenant_use_the_indexes(two_tenants: str) -> None:
    owner = await raw(two_tenants)
    await owner.execute(
        "INSERT INTO runs (run_id, tenant, agent, request_hash, input, created_at) "
        "SELECT 'b:' || n, 'b', 'x', '', '', now() - n * interval '1 second' FROM generate_series(1, 20000) AS n"
    )
    await owner.execute("ANALYZE")
    await owner.close()
    async with as_tenant(two_tenants, "a") as a:
        for sql in (
            "SELECT * FROM runs WHERE run_id = 'a:r'",
            "SELECT * FROM runs WHERE tenant = 'a' ORDER BY created_at DESC, run_id DESC LIMIT 10",
            "SELECT * FROM run_events WHERE run_day = current_date AND run_id = 'a:r' AND seq > 0",
        ):
            plan = "\n".join(row[0] for row in await a.fetch(f"EXPLAIN {sql}"))
            assert "Seq Scan on runs" not in plan, plan
            assert re.search(r"Index (Only )?Scan|Bitmap", plan), plan


# ------------------------------------------------------------------ servers that refuse roles


@asynccontextmanager
async def restricted_owner(admin_dsn: str, *, granted: bool) -> AsyncIterator[str]:
    """A database owned by a user who may create no roles; `granted`: an administrator made and gave it the role."""
    name = f"limited_{uuid.uuid4().hex[:10]}"
    admin = await raw(admin_dsn)
    try:
        await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
        await admin.execute(f"CREATE DATABASE {name} OWNER {name}")
        if granted:
            await admin.execute(f"GRANT {TENANT_ROLE} TO {name}")
        parts = urlsplit(admin_dsn)
        host = parts.netloc.rpartition("@")[2]
        yield urlunsplit(parts._replace(netloc=f"{name}:x@{host}", path=f"/{name}"))
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.execute(f"DROP ROLE IF EXISTS {name}")
        await admin.close()


async def test_where_roles_are_refused_all_but_tenants_works_and_it_is_said_what_to_do(
    postgres_dsn: str, database: str
) -> None:
    del database  # its template has made the role: here it exists, and this user was not given it
    async with restricted_owner(postgres_dsn, granted=False) as dsn:
        await migrate(dsn)
        async with stages(dsn) as s:
            await s.control.start(StartRequest(run_id="r", external=True))
            assert (await s.control.view("r")).run_id == "r"
            with pytest.raises(ConfigurationError) as refused:
                await check_isolation(s.database)
    assert f"GRANT {TENANT_ROLE} TO <this user>" in refused.value.problems[0]
    assert "RUNWIRE_TENANTS=false" in refused.value.problems[0]


async def test_where_an_administrator_gave_the_role_tenants_work(postgres_dsn: str, database: str) -> None:
    del database
    async with restricted_owner(postgres_dsn, granted=True) as dsn:
        await migrate(dsn)
        async with stages(dsn) as s:
            await check_isolation(s.database)
            for tenant in ("a", "b"):
                control = s.control.on_behalf_of(tenant)
                await control.start(StartRequest(run_id=f"{tenant}:r", external=True))
                assert [run.run_id for run in (await control.page()).runs] == [f"{tenant}:r"]
