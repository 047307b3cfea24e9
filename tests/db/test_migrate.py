"""Migrations: forward, once, together, and never past what this version knows."""

from __future__ import annotations

import asyncio

import pytest

from pipeline import raw
from runwire.db import migrate as module
from runwire.db.migrate import Migration, migrate, migrations
from runwire.db.sql import load_sql
from runwire.errors import DatabaseUnavailable, MigrationError


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
