"""A transaction whose commit begins the next one: an exchange less, and nothing held in between."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from pipeline import raw, stages
from runwire.db import Session
from runwire.errors import DatabaseUnavailable
from waiting import eventually

NAME = "runwire chain"


async def seen(watcher: Any) -> Any:
    """The session as others see it."""
    return await watcher.fetchrow(
        "SELECT pid, state, backend_xmin IS NULL AND backend_xid IS NULL AS holds_nothing FROM pg_stat_activity "
        "WHERE application_name = $1 AND datname = current_database()",
        NAME,
    )


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The connections of the session, as it opens them."""
    connect = asyncpg.connect
    found: list[Any] = []

    async def noted(*args: Any, **settings: Any) -> Any:
        connection = await connect(*args, **settings)
        if settings.get("server_settings", {}).get("application_name") == NAME:
            found.append(connection)
        return connection

    monkeypatch.setattr(asyncpg, "connect", noted)
    return found


async def statements(session: Session, connection: Any, *, steps: int) -> list[str]:
    """The messages to the server for so many steps, in the order sent."""
    sent: list[str] = []
    with connection.query_logger(lambda query: sent.append(query.query)):
        for _ in range(steps):
            async with session.chained() as tx:
                await tx.fetch("SELECT 1")
        await asyncio.sleep(0)
    return sent


async def test_the_steps_after_the_first_need_no_begin(database: str, opened: list[Any]) -> None:
    async with stages(database) as s:
        session = s.database.session("chain")
        await session.fetch("SELECT 1")
        sent = await statements(session, opened[-1], steps=3)
        assert [sql.split()[0] for sql in sent] == ["BEGIN", *["SELECT", "COMMIT"] * 3]
        await session.aclose()


async def test_in_between_it_holds_nothing_and_it_ends_when_nobody_comes(database: str) -> None:
    watcher = await raw(database)
    async with stages(database) as s:
        session = s.database.session("chain")
        async with session.chained() as tx:
            await tx.execute("CREATE TABLE t (n int)")
        row = await seen(watcher)
        assert (row["state"], row["holds_nothing"]) == ("idle in transaction", True)
        assert await watcher.fetchval("SELECT count(*) FROM t") == 0  # committed, and not locked
        await session.unchain()
        assert (await seen(watcher))["state"] == "idle"
        await session.unchain()
        await session.aclose()
    await watcher.close()


async def test_each_step_sees_what_was_committed_before_it_and_is_committed_by_itself(database: str) -> None:
    watcher = await raw(database)
    await watcher.execute("CREATE TABLE t (n int)")
    async with stages(database) as s:
        session = s.database.session("chain")
        for n in range(1, 4):
            await watcher.execute("INSERT INTO t VALUES (0)")
            async with session.chained() as tx:
                assert len(await tx.fetch("SELECT FROM t")) == 2 * n - 1
                await tx.execute("INSERT INTO t VALUES (1)")
            assert await watcher.fetchval("SELECT count(*) FROM t") == 2 * n
        await session.aclose()
    await watcher.close()


async def test_a_step_that_fails_is_rolled_back_and_the_next_one_begins_anew(database: str) -> None:
    watcher = await raw(database)
    await watcher.execute("CREATE TABLE t (n int)")
    async with stages(database) as s:
        session = s.database.session("chain")

        async def fail() -> None:
            async with session.chained() as tx:
                await tx.execute("INSERT INTO t VALUES (1)")
                raise RuntimeError("a bug")

        for _ in range(2):
            with pytest.raises(RuntimeError, match="a bug"):
                await fail()
            assert (await seen(watcher))["state"] == "idle"
        async with session.chained() as tx:
            assert await tx.fetch("SELECT FROM t") == []
        await session.aclose()
    await watcher.close()


@pytest.mark.parametrize("when", ["in between", "amid a step"])
async def test_a_connection_that_breaks_is_replaced(database: str, when: str) -> None:
    watcher = await raw(database)
    async with stages(database) as s:
        session = s.database.session("chain")
        async with session.chained() as tx:
            await tx.fetch("SELECT 1")
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1"
        if when == "in between":
            await watcher.execute(end, NAME)
            await eventually(lambda: not session.is_open)
        else:

            async def cut_off() -> None:
                async with session.chained() as tx:
                    await watcher.execute(end, NAME)
                    await tx.fetch("SELECT 1")

            with pytest.raises(DatabaseUnavailable):
                await cut_off()
        async with session.chained() as tx:
            assert [tuple(row) for row in await tx.fetch("SELECT 1")] == [(1,)]
        assert session.opened == 2
        await session.aclose()
    await watcher.close()


async def test_a_cancelled_step_leaves_no_transaction_behind(database: str) -> None:
    watcher = await raw(database)
    async with stages(database) as s:
        session = s.database.session("chain")
        entered = asyncio.Event()

        async def step() -> None:
            async with session.chained():
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(step())
        await entered.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        async def gone() -> bool:
            return await seen(watcher) is None

        await eventually(gone)
        async with session.chained() as tx:
            await tx.fetch("SELECT 1")
        await session.aclose()
    await watcher.close()
