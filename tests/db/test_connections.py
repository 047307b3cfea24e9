"""Connections fail as one of two errors of ours, come back by themselves, and close whatever state they are in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from pipeline import raw
from runwire.db import ConstraintViolated, Database, Session, Transaction, seen_by
from runwire.errors import DatabaseUnavailable, ReadTimedOut
from waiting import eventually


async def kill(dsn: str, name: str) -> int:
    """Ends the server's side of connections by application name; how many there were."""
    killer = await raw(dsn)
    try:
        killed: int = await killer.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = $1",
            name,
        )
    finally:
        await killer.close()
    return killed


class Wire:
    """A way to the server that can go silent, as a network does: nothing is closed, nothing arrives.

    While it `flows` not, what was said arrives later.
    """

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        query = parse_qs(parts.query)
        self._socket = f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
        self._user, self._database = parts.username, parts.path
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._clients: list[asyncio.StreamWriter] = []
        self.silent = False
        self.flows = asyncio.Event()
        self.flows.set()
        self.connects = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """The DSN of the way."""
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        try:
            yield f"postgresql://{self._user}@127.0.0.1:{port}{self._database}?sslmode=disable"
        finally:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()
            await self._server.wait_closed()
            await eventually(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "wire"])

    def say(self, data: bytes) -> None:
        """Clients hear this from the server, which never said it."""
        for writer in self._clients:
            writer.write(data)

    async def _join(self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        self.connects += 1
        task = asyncio.current_task()
        assert task is not None
        task.set_name("wire")
        far, far_out = await asyncio.open_unix_connection(self._socket)
        self._writers += [near_out, far_out]
        self._clients.append(near_out)
        await asyncio.gather(self._carry(near, far_out), self._carry(far, near_out))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                await self.flows.wait()
                if not self.silent:
                    sink.write(data)
        sink.close()


# ------------------------------------------------------------------ sessions


async def test_a_session_whose_server_went_says_so_once_and_works_again(database: str) -> None:
    async with Database(database) as db:
        session = db.session("test")
        await session.fetch("SELECT 1")
        assert await kill(database, "runwire test") == 1
        with pytest.raises(DatabaseUnavailable):
            await session.fetch("SELECT pg_terminate_backend(pg_backend_pid())")
        row = await session.fetchrow("SELECT 1 AS one")
        assert row is not None
        assert row["one"] == 1
        await session.aclose()


async def test_a_transaction_that_is_cancelled_leaves_nothing_behind_and_the_session_usable(database: str) -> None:
    async with Database(database) as db:
        session = db.session("test")
        inside = asyncio.Event()

        async def work() -> None:
            async with session.transaction() as tx:
                await tx.execute("INSERT INTO runs (run_id, agent, request_hash, input) VALUES ('r', 'golden', '', '')")
                inside.set()
                await tx.execute("SELECT pg_sleep(60)")

        task = asyncio.create_task(work())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await session.fetch("SELECT run_id FROM runs") == []
        await session.aclose()


async def test_a_fetch_that_is_cancelled_leaves_the_session_usable(database: str) -> None:
    async with Database(database) as db:
        session = db.session("test")
        task = asyncio.create_task(session.fetch("SELECT pg_sleep(60)"))
        look = await raw(database)

        async def sleeping() -> bool:
            return bool(await look.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))

        await eventually(sleeping)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [row[0] for row in await session.fetch("SELECT 7")] == [7]
        await session.aclose()
        await look.close()


@pytest.mark.parametrize("what", ["session transaction", "pool transaction", "pool statement"])
async def test_a_task_that_is_cancelled_does_not_wait_for_a_server_that_does_not_answer(
    database: str, what: str
) -> None:
    """Otherwise the cancellation would turn into the error of a time-out, and a loop that is to end would go on."""
    wire = Wire(database)
    async with wire.open() as dsn, Database(dsn, timeout_s=5) as db:
        session = db.session("test")
        begun = asyncio.Event()

        async def work() -> None:
            if what == "pool statement":
                begun.set()
                await db.fetch("SELECT pg_sleep(60)")
            opened = session.transaction if what == "session transaction" else db.transaction
            async with opened() as tx:
                await tx.fetch("SELECT 1")
                begun.set()
                await tx.fetch("SELECT pg_sleep(60)")

        await db.fetch("SELECT 1")
        task = asyncio.create_task(work())
        await begun.wait()
        look = await raw(database)

        async def sleeping() -> bool:
            return bool(await look.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))

        await eventually(sleeping)
        wire.silent = True
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=2)
        assert done
        assert task.cancelled()
        wire.silent = False
        assert [row[0] for row in await session.fetch("SELECT 7")] == [7]
        assert await db.fetchval("SELECT 7") == 7
        await session.aclose()
        await look.close()


async def test_a_block_that_raises_rolls_back_and_keeps_its_error(database: str) -> None:
    async with Database(database) as db:
        session = db.session("test")
        for opened in (session.transaction, db.transaction):
            with pytest.raises(KeyError):  # noqa: PT012  # it is raised in the block on purpose
                async with opened() as tx:
                    await tx.execute(
                        "INSERT INTO runs (run_id, agent, request_hash, input) VALUES ('r', 'golden', '', '')"
                    )
                    raise KeyError
            assert await session.fetch("SELECT run_id FROM runs") == []
        await session.aclose()


async def test_a_statement_without_an_answer_is_given_up_in_time(database: str) -> None:
    wire = Wire(database)
    async with wire.open() as dsn, Database(dsn, timeout_s=0.3) as db:
        session = db.session("test")
        await session.fetch("SELECT 1")
        wire.silent = True
        with pytest.raises(DatabaseUnavailable):
            await session.fetch("SELECT 1")
        wire.silent = False
        await session.fetch("SELECT 1")
        await session.aclose()


async def test_a_session_closes_without_an_answer_too(database: str) -> None:
    wire = Wire(database)
    async with wire.open() as dsn, Database(dsn, timeout_s=5) as db:
        session = db.session("test")
        await session.fetch("SELECT 1")
        wire.silent = True
        await asyncio.wait_for(session.aclose(), 10)
        wire.silent = False
        await session.fetch("SELECT 1")  # and opens again
        await session.aclose()


async def test_a_broken_constraint_is_told_by_its_name(database: str) -> None:
    async with Database(database) as db:
        session = db.session("test")
        statement = "INSERT INTO runs (run_id, agent, request_hash, input) VALUES ('r', 'a', '', '')"
        await session.fetch(statement)
        for run in (session.fetch, db.execute):
            with pytest.raises(ConstraintViolated) as refused:
                await run(statement)
            assert refused.value.constraint == "runs_pkey"
        await session.aclose()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"path": "/no_such_database"}, "invalid catalog name"),
        ({"netloc": "nobody_at_all@"}, "invalid authorization specification"),
    ],
)
async def test_a_connection_that_is_refused_is_a_database_that_cannot_be_had(
    database: str, change: dict[str, Any], why: str
) -> None:
    dsn = urlsplit(database)._replace(**change).geturl()
    async with Database(dsn) as db:
        with pytest.raises(DatabaseUnavailable, match=f"^PostgreSQL: {why}$"):
            await db.fetch("SELECT 1")
        with pytest.raises(DatabaseUnavailable, match=f"^PostgreSQL: {why}$"):
            await db.session("test").fetch("SELECT 1")


# ------------------------------------------------------------------ the pool


async def test_the_pool_recovers_when_all_its_connections_are_gone(database: str) -> None:
    async with Database(database, pool_size=4) as db:
        await asyncio.gather(*(db.fetch("SELECT pg_sleep(0.05)") for _ in range(4)))
        assert await kill(database, "runwire pool") >= 1

        async def answers() -> bool:
            with contextlib.suppress(DatabaseUnavailable):
                return len(await asyncio.gather(*(db.fetch("SELECT 1") for _ in range(4)))) == 4
            return False

        await eventually(answers)


async def test_a_full_pool_is_unavailable_after_its_time_not_for_ever(database: str) -> None:
    async with Database(database, pool_size=1, timeout_s=0.3) as db, db.transaction() as tx:
        await tx.execute("SELECT 1")
        assert db.in_use == 1
        with pytest.raises(DatabaseUnavailable):
            await db.fetch("SELECT 1")


async def test_a_transaction_that_did_not_come_about_in_time_does_not_go_back_to_the_pool(database: str) -> None:
    wire, complaints = Wire(database), list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, told: complaints.append(told["message"]))
    async with wire.open() as dsn, Database(dsn, timeout_s=0.3) as db:
        assert await db.fetchval("SELECT 7") == 7
        wire.flows.clear()

        async def flow_again() -> None:
            await eventually(lambda: wire.connects >= 2)  # somebody comes to have the statement cancelled, or anew
            wire.flows.set()

        again = asyncio.create_task(flow_again())
        with pytest.raises(DatabaseUnavailable):
            async with db.transaction():
                pass
        assert db.in_use == 0
        assert await db.fetchval("SELECT 7") == 7
        await again
    assert complaints == []


async def test_a_pool_that_closes_gives_those_who_ask_an_error_of_ours(database: str) -> None:
    db = Database(database, pool_size=2)
    async with db:
        asking = [asyncio.create_task(db.fetch("SELECT pg_sleep(0.05)")) for _ in range(20)]
        await asyncio.sleep(0)
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(answer) for answer in answers} <= {list, DatabaseUnavailable}
    with pytest.raises(DatabaseUnavailable):
        await db.fetch("SELECT 1")
    assert db.in_use == 0


async def test_a_pool_whose_server_is_silent_closes_in_time(database: str) -> None:
    wire = Wire(database)
    async with wire.open() as dsn:
        db = Database(dsn, timeout_s=5)
        await db.__aenter__()
        await db.fetch("SELECT 1")
        wire.silent = True
        await asyncio.wait_for(db.__aexit__(None, None, None), 10)


async def test_waits_for_the_pool_are_told(database: str) -> None:
    waits: list[float] = []
    async with Database(database, pool_size=1, on_wait=waits.append) as db:
        await asyncio.gather(*(db.fetch("SELECT pg_sleep(0.05)") for _ in range(3)))
    assert len(waits) == 3
    assert sorted(waits)[1] >= 0.05


# ------------------------------------------------------------------ callers that leave, and servers without room


async def test_callers_that_leave_cost_neither_a_connection_nor_a_statement(database: str) -> None:
    wire = Wire(database)
    async with wire.open() as dsn, Database(dsn, pool_size=2) as db:
        await asyncio.gather(*(db.fetch("SELECT pg_sleep(0.05)") for _ in range(2)))
        opened = wire.connects
        await db.execute("CREATE TABLE left_behind (n int)")
        for n in range(50):
            call = asyncio.create_task(db.execute("INSERT INTO left_behind SELECT $1 FROM pg_sleep(0.002)", n))
            await asyncio.sleep(0)  # it has a connection, which was idle, and the statement is on its way
            assert db.in_use == 1
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await eventually(lambda: db.in_use == 0)
        assert await db.fetchval("SELECT count(*) FROM left_behind") == 50
        assert wire.connects == opened


async def test_one_that_waits_for_a_connection_and_leaves_ends_no_attempt_to_open_it(database: str) -> None:
    wire = Wire(database)
    async with wire.open() as dsn, Database(dsn, pool_size=1) as db:
        wire.flows.clear()
        first = asyncio.create_task(db.fetchval("SELECT 1"))
        await eventually(lambda: wire.connects == 1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = asyncio.create_task(db.fetchval("SELECT 2"))
        wire.flows.set()
        assert await second == 2
        assert wire.connects == 1


async def test_a_transaction_in_one_call_goes_on_to_its_end_though_its_caller_leaves(database: str) -> None:
    async with Database(database, pool_size=1) as db:
        await db.execute("CREATE TABLE left_behind (n int)")
        inside = asyncio.Event()

        async def work(tx: Transaction) -> None:
            await tx.execute("INSERT INTO left_behind VALUES (1)")
            inside.set()
            await tx.execute("SELECT pg_sleep(0.05)")

        call = asyncio.create_task(db.in_transaction(work))
        await inside.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await db.fetchval("SELECT count(*) FROM left_behind") == 1


@asynccontextmanager
async def limited(database: str, *, connections: int) -> AsyncIterator[str]:
    """The DSN for a role that may have so many connections."""
    admin = await raw(database)
    role = f"limited_{urlsplit(database).path.removeprefix('/')}"
    await admin.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT {connections}")
    parts = urlsplit(database)
    try:
        yield parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}").geturl()
    finally:
        await admin.execute(f"DROP ROLE {role}")
        await admin.close()


async def test_a_pool_that_gets_fewer_connections_serves_everybody_with_those_it_has(database: str) -> None:
    async with limited(database, connections=2) as dsn, Database(dsn, pool_size=8, timeout_s=10) as db:
        answers = await asyncio.gather(*(db.fetchval("SELECT $1::int FROM pg_sleep(0.01)", n) for n in range(40)))
        assert answers == list(range(40))
        assert db.troubles.lasting(0) == [], "nobody waits any more"


async def test_a_session_finds_room_where_the_pool_has_taken_it_all(database: str) -> None:
    async with limited(database, connections=3) as dsn, Database(dsn, pool_size=3, timeout_s=5) as db:
        await asyncio.gather(*(db.fetch("SELECT pg_sleep(0.02)") for _ in range(3)))
        sessions = [db.session(f"test {n}") for n in range(2)]

        async def has_room(session: Session) -> bool:
            with contextlib.suppress(DatabaseUnavailable):
                return bool(await session.fetch("SELECT 1"))
            return False

        for session in sessions:
            await eventually(lambda session=session: has_room(session))  # type: ignore[misc]
        assert await db.fetchval("SELECT 7") == 7
        for session in sessions:
            await session.aclose()


async def test_a_connection_that_cannot_be_had_is_named_until_it_is_there(database: str) -> None:
    async with limited(database, connections=1) as dsn, Database(dsn) as db:
        holder = await raw(dsn)
        session = db.session("append 0")
        with pytest.raises(DatabaseUnavailable, match="too many connections"):
            await session.fetch("SELECT 1")
        (trouble,) = db.troubles.lasting(0)
        assert (trouble.name, trouble.why) == ("connect append 0", "PostgreSQL: too many connections")
        await holder.close()
        await eventually(lambda: db.troubles.lasting(0) == [])  # nobody has to ask for it
        assert session.is_open
        await session.aclose()


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_every_connection_reads_committed_rows_whatever_the_databases_default(database: str, level: str) -> None:
    name = urlsplit(database).path.removeprefix("/")
    admin = await raw(database)
    await admin.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
    await admin.close()
    asked = "SELECT current_setting('transaction_isolation')"
    for pooler in (None, database):
        async with Database(database, direct_dsn=pooler) as db:
            session = db.session("test")
            seen = {await db.fetchval(asked), (await session.fetch(asked))[0][0]}
            async with db.transaction() as tx:
                seen |= {row[0] for row in await tx.fetch(asked)}
            async with session.transaction() as tx:
                seen |= {row[0] for row in await tx.fetch(asked)}
            seen |= {(await db.in_transaction(lambda tx: tx.fetch(asked)))[0][0]}
            assert seen == {"read committed"}
            await session.aclose()


@pytest.mark.parametrize("tenant", [None, "default"])
async def test_a_read_that_takes_longer_than_it_may_is_given_up(database: str, tenant: str | None) -> None:
    async with Database(database, pool_size=1) as db:
        asked = seen_by(db, tenant)
        with pytest.raises(ReadTimedOut):
            await asked.fetch("SELECT pg_sleep(60)", within_s=0.1)
        assert [row[0] for row in await asked.fetch("SELECT 7", within_s=5.0)] == [7]
