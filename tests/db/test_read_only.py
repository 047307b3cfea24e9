"""A database that takes no writes is refused at the start, in a sentence that says what to do."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cli.command import started
from pipeline import raw
from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres
from runwire.db.migrate import migrate
from runwire.errors import DatabaseUnavailable


@pytest.mark.parametrize("migrated", [True, False])
async def test_a_read_only_database_is_refused_with_its_setting(database: str, migrated: bool) -> None:
    connection = await raw(database)
    name = urlsplit(database).path.removeprefix("/")
    if not migrated:
        await connection.execute("DROP SCHEMA public CASCADE")
    await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await connection.close()
    with pytest.raises(DatabaseUnavailable, match="default_transaction_read_only is on"):
        await migrate(database)


async def test_serve_on_a_standby_ends_with_one_sentence_that_names_the_way_to_the_primary(tmp_path: Path) -> None:
    options = EmbeddedOptions(tmp_path / "postgres", settings={"wal_level": "replica", "shared_buffers": "16MB"})
    async with EmbeddedPostgres(options) as primary:
        await migrate(primary.dsn)
    (tmp_path / "postgres" / "data" / "standby.signal").touch()
    async with (
        EmbeddedPostgres(options) as standby,
        started("serve", "--port", "0", "--admin-port", "0", DATABASE_URL=standby.dsn) as serving,
    ):
        result = await serving.ended(within_s=60)
    assert result.code == 4
    assert result.err.strip().count("\n") == 0
    assert "PostgreSQL is a standby" in result.err
    assert "target_session_attrs=read-write" in result.err
