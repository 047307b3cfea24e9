"""Migrations: forward, once, together, and never past what this version knows."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from pipeline import raw
from runwire.clock import monotonic
from runwire.db import migrate as module
from runwire.db.migrate import migrate, pending
from runwire.db.migration import Migration, migrations
from runwire.db.sql import load_sql
from runwire.errors import DatabaseUnavailable, MigrationError
from waiting import eventually


def test_each_migration_has_the_number_after_the_one_before() -> None:
    assert [migration.name[:4] for migration in migrations()] == [f"{n:04}" for n in range(1, len(migrations()) + 1)]


async def test_a_database_that_has_them_all_gets_none(database: str) -> None:
    assert await migrate(database) == ()


async def test_processes_that_start_together_apply_each_once(database: str) -> None:
    connection = await raw(database)
    await connection.execute("DROP SCHEMA public CASCADE")
    await connection.execute("CREATE SCHEMA public")
    applied = await asyncio.gather(*(migrate(database) for _ in range(4)))
    names = tuple(migration.name for migration in migrations())
    assert sorted(applied, key=len) == [(), (), (), names]
    assert await connection.fetchval("SELECT count(*) FROM runwire_migrations") == len(names)
    await connection.close()


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO runwire_migrations (name, sha256) VALUES ('9999_later', 'x')",
        "UPDATE runwire_migrations SET sha256 = 'x' WHERE name LIKE '0001%'",
    ],
)
async def test_a_database_of_another_version_is_refused(database: str, change: str) -> None:
    connection = await raw(database)
    await connection.execute(change)
    await connection.close()
    with pytest.raises(MigrationError):
        await migrate(database)


async def test_code_goes_on_with_a_later_schema_that_says_it_serves_it(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = migrations()
    newest = shipped[-1].name[:4]
    later = Migration("9000_later", f"-- Adds a table.\n-- serves: {newest}\nCREATE TABLE later (n int)")
    monkeypatch.setattr(module, "migrations", lambda: (*shipped, later))
    assert await migrate(database) == ("9000_later",)
    monkeypatch.setattr(module, "migrations", lambda: shipped)
    assert await migrate(database) == ()
    latest = Migration("9001_latest", "-- serves: 9000\nDROP TABLE later")
    monkeypatch.setattr(module, "migrations", lambda: (*shipped, later, latest))
    assert await migrate(database) == ("9001_latest",)
    monkeypatch.setattr(module, "migrations", lambda: shipped)
    with pytest.raises(MigrationError, match="9001_latest"):
        await migrate(database)


async def test_a_migration_that_fails_leaves_nothing_of_itself_and_keeps_those_before(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = migrations()
    good = Migration("9000_good", "CREATE TABLE good (n int)")
    bad = Migration("9001_bad", "CREATE TABLE bad (n int); SELECT * FROM nowhere")
    monkeypatch.setattr(module, "migrations", lambda: (*shipped, good, bad))
    with pytest.raises(MigrationError):
        await migrate(database)
    connection = await raw(database)
    assert await connection.fetchval("SELECT to_regclass('good') IS NOT NULL AND to_regclass('bad') IS NULL")
    mended = Migration(bad.name, "CREATE TABLE bad (n int)")
    monkeypatch.setattr(module, "migrations", lambda: (*shipped, good, mended))
    assert await migrate(database) == ("9001_bad",)
    await connection.close()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailable):
        await migrate("postgresql://nobody@127.0.0.1:1/none")


def test_statements_have_names_of_their_own(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path  # noqa: PLC0415

    folder = Path(str(tmp_path)) / "twice_named"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "twice.sql").write_text("-- name: a\nSELECT 1\n-- name: a\nSELECT 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="twice"):
        load_sql("twice_named", "twice.sql")


# ------------------------------------------------------------------ beside a service that goes on


async def test_an_idle_reader_holds_a_migration_up_and_nobody_queues_behind_it(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pg_dump reads: ALTER TABLE waits for it, and whoever comes then would wait for ALTER TABLE."""
    change = Migration("9000_change", "ALTER TABLE runs ADD COLUMN later int;")
    monkeypatch.setattr(module, "migrations", lambda: (*migrations(), change))
    reader, other = await raw(database), await raw(database)
    transaction = reader.transaction(isolation="repeatable_read")
    await transaction.start()
    await reader.fetchval("SELECT count(*) FROM runs")
    with structlog.testing.capture_logs() as lines:
        migrating = asyncio.create_task(migrate(database))
        slowest = 0.0
        for _ in range(30):
            began = monotonic()
            await other.fetchval("SELECT count(*) FROM runs")
            slowest = max(slowest, monotonic() - began)
            await asyncio.sleep(0.1)
        assert not migrating.done()
        assert slowest < 2
        await transaction.rollback()
        assert await migrating == ("9000_change",)
    said = [line for line in lines if line["event"] == "migration_waiting"]
    assert len(said) == 1
    assert f"session {reader.get_server_pid()}" in said[0]["why"]
    await reader.close()
    await other.close()


async def test_a_migration_gives_up_in_the_end_and_names_who_has_the_lock(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = Migration("9000_change", "ALTER TABLE runs ADD COLUMN later int;")
    monkeypatch.setattr(module, "migrations", lambda: (*migrations(), change))
    reader = await raw(database)
    async with reader.transaction():
        await reader.fetchval("SELECT count(*) FROM runs")
        with pytest.raises(
            MigrationError, match=f"9000_change did not get its locks: session {reader.get_server_pid()}"
        ):
            await migrate(database, patience_s=0.1)
    assert await migrate(database) == ("9000_change",)
    await reader.close()


INDEXED = Migration(
    "9000_indexed",
    "ALTER TABLE runs ADD COLUMN later int;\nCREATE INDEX runs_later ON runs (later)\n    WHERE later > 0;\n",
)


async def test_an_index_of_a_big_table_is_built_beside_those_who_write_to_it(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "migrations", lambda: (*migrations(), INDEXED))
    old_reader, writer = await raw(database), await raw(database)
    # Holds no lock on the table, and a snapshot that building in this way waits for.
    transaction = old_reader.transaction(isolation="repeatable_read")
    await transaction.start()
    await old_reader.fetchval("SELECT count(*) FROM publishers")
    migrating = asyncio.create_task(migrate(database, big_bytes=0))

    async def building() -> bool:
        return bool(await writer.fetchval("SELECT to_regclass('runs_later') IS NOT NULL"))

    await eventually(building, within_s=10)
    async with asyncio.timeout(5):
        await writer.execute(
            "INSERT INTO runs (run_id, agent, request_hash, input, later) VALUES ('r', 'x', '', '', 1)"
        )
    assert not migrating.done()
    assert "9000_indexed" in await pending(writer)
    await transaction.rollback()
    assert await migrating == ("9000_indexed",)
    assert await pending(writer) == ()
    valid = await writer.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = 'runs_later'::regclass")
    assert valid is True
    await old_reader.close()
    await writer.close()


async def test_an_index_whose_building_was_cut_off_is_built_by_the_next_start(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "migrations", lambda: (*migrations(), INDEXED))
    old_reader, look = await raw(database), await raw(database)
    async with old_reader.transaction(isolation="repeatable_read"):
        await old_reader.fetchval("SELECT count(*) FROM publishers")
        migrating = asyncio.create_task(migrate(database, big_bytes=0))
        pid = await eventually(
            lambda: look.fetchval(
                "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'CREATE INDEX CONC%'"
            )
        )
        await look.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(DatabaseUnavailable):
            await migrating
    assert await look.fetchval("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = 'runs_later'::regclass")
    assert await migrate(database) == ("9000_indexed",)
    assert await look.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = 'runs_later'::regclass")
    assert await migrate(database) == ()
    await old_reader.close()
    await look.close()


async def test_who_waits_for_another_that_migrates_says_so_and_can_be_stopped(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = Migration("9000_change", "ALTER TABLE runs ADD COLUMN later int;")
    monkeypatch.setattr(module, "migrations", lambda: (*migrations(), change))
    other = await raw(database)
    await other.execute("SELECT pg_advisory_lock($1)", 0x72756E77697265)
    with structlog.testing.capture_logs() as lines:
        waiting = asyncio.create_task(migrate(database))
        await eventually(lambda: [line for line in lines if line["event"] == "migration_waiting"])
        assert f"session {other.get_server_pid()}" in lines[0]["why"]
        waiting.cancel()
        async with asyncio.timeout(3):
            await asyncio.gather(waiting, return_exceptions=True)
    await other.close()
    assert await migrate(database) == ("9000_change",)
