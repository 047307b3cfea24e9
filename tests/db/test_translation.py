"""Every error of driver, server or network becomes one of two errors of ours, by the class of its SQLSTATE."""

from __future__ import annotations

import asyncio
import ssl

import asyncpg
import pytest

from runwire.db import Database, NoPartition
from runwire.db.translation import of_a_statement, spoils, translated, translation_of
from runwire.errors import BusUnavailable, ConstraintViolated, DatabaseFailed, DatabaseUnavailable

CLASSES = """
    01 02 03 08 09 0A 0B 0F 0L 0P 0Z 20 21 22 23 24 25 26 27 28 2B 2D 2F 34 38 39 3B 3D 3F 40 42 44 53 54 55 57 58 72
    F0 HV P0 XX ZZ
""".split()  # noqa: SIM905  # read as a table
KNOWN = sorted(
    {
        kind.sqlstate
        for kind in vars(asyncpg.exceptions).values()
        if isinstance(kind, type) and issubclass(kind, asyncpg.PostgresError) and kind.sqlstate
    }
)


def said(sqlstate: str) -> Exception:
    """The exception that asyncpg raises for an ErrorResponse of the server."""
    error: Exception = asyncpg.PostgresError.new({"S": "ERROR", "C": sqlstate, "M": "secret"})
    return error


@pytest.mark.parametrize("sqlstate", [*(f"{cls}000" for cls in CLASSES), *(f"{cls}ZZ9" for cls in CLASSES), *KNOWN])
def test_every_sqlstate_is_the_callers_value_or_passes(sqlstate: str) -> None:
    error = translation_of(said(sqlstate))
    if sqlstate[:2] in ("22", "23"):
        assert isinstance(error, ConstraintViolated)
        assert not spoils(error)
    else:
        assert isinstance(error, DatabaseUnavailable)
        assert error.sqlstate == sqlstate
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InterfaceError("secret"),
        asyncpg.InternalClientError("secret"),
        asyncpg.ProtocolError("secret"),
        asyncpg.UnsupportedClientFeatureError("secret"),
        asyncpg.OutdatedSchemaCacheError("secret"),
        asyncpg.ConnectionDoesNotExistError("secret"),
        ConnectionResetError("secret"),
        OSError(5, "secret"),
        ssl.SSLError("secret"),
        TimeoutError("secret"),
        asyncio.IncompleteReadError(b"secret", 7),
        RuntimeError("the handler is closed: secret"),
        UnicodeDecodeError("utf-8", b"secret", 0, 1, "x"),
        BufferError("secret"),
        KeyError("secret"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_else_a_call_of_the_driver_raises_passes_and_costs_the_connection(error: Exception) -> None:
    with pytest.raises(DatabaseUnavailable) as caught, translated:
        raise error
    assert caught.value.__cause__ is error
    assert "secret" not in str(caught.value)
    if not isinstance(error, asyncpg.PostgresError):
        assert spoils(caught.value)


@pytest.mark.parametrize("error", [BusUnavailable("x"), asyncio.CancelledError(), KeyboardInterrupt()])
def test_our_own_errors_and_ends_go_through(error: BaseException) -> None:
    with pytest.raises(type(error)), translated:
        raise error


@pytest.mark.parametrize(
    ("sqlstate", "one_statements", "spoilt"),
    [
        ("XX000", True, True),
        ("XX001", True, True),
        ("58030", True, True),
        ("42501", True, False),
        ("42P01", True, True),
        ("0A000", True, True),
        ("26000", True, True),
        ("P0001", True, False),
        ("40001", False, False),
        ("55P03", False, False),
        ("57014", False, False),
        ("57P01", False, True),
        ("25006", False, True),
        ("53300", False, True),
    ],
)
def test_what_an_error_says_of_the_statement_and_of_the_connection(
    sqlstate: str, one_statements: bool, spoilt: bool
) -> None:
    error = translation_of(said(sqlstate))
    assert (of_a_statement(error), spoils(error)) == (one_statements, spoilt)


async def test_every_sqlstate_is_waited_out_on_the_same_session_and_pool(database: str) -> None:
    raising = "DO $$ BEGIN RAISE EXCEPTION 'secret' USING ERRCODE = '{}'; END $$"
    async with Database(database, pool_size=2) as db:
        session = db.session("test")
        for sqlstate in [f"{cls}ZZ9" for cls in CLASSES] + ["XX000", "58030", "25P04", "0A000", "42501"]:
            for fails in (session.fetch, db.execute):
                with pytest.raises(DatabaseFailed):
                    await fails(raising.format(sqlstate))

            async def in_block() -> None:
                async with session.transaction() as tx:
                    await tx.execute(raising.format(sqlstate))  # noqa: B023  # called at once

            with pytest.raises(DatabaseFailed):
                await in_block()
            assert (await session.fetch("SELECT 1"))[0][0] == 1
            assert await db.fetchval("SELECT 1") == 1
        await session.aclose()
        assert db.in_use == 0
        assert db.troubles.lasting(0) == []


async def test_a_missing_partition_is_told_from_a_check(database: str) -> None:
    async with Database(database) as db:
        session = db.session("test")
        with pytest.raises(NoPartition):
            await session.fetch(
                "INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source) "
                "VALUES ('1999-01-01', 'r', 1, 0, 'RunStarted', 'api')"
            )
        await session.aclose()
