"""Hints between processes: listened to through every loss of a connection, sent without holding anybody up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from db.test_connections import Wire, kill
from muffled import Way
from pipeline import RecordingBus, raw, stages
from runwire.append import Change
from runwire.db import Database, Listener, Troubles
from runwire.db.notify import PAYLOAD_MAX, Notifier, packed
from runwire.db.partitions import PartitionUpkeep
from runwire.duties import Duty
from runwire.model.event import RUN_STARTED, Source, debug_trace
from runwire.model.run import RunState
from runwire.orchestrate import StartRequest
from waiting import eventually


@asynccontextmanager
async def running(*loops: object) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(loop) for loop in loops]  # type: ignore[call-overload]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [end for end in ends if not isinstance(end, asyncio.CancelledError)] == []


async def test_a_listener_hears_again_after_its_connection_is_lost_and_says_it_missed_some(database: str) -> None:
    heard: list[str] = []
    connects: list[int] = []
    listener = Listener(Database(database), {"c": heard.append}, on_connected=lambda: connects.append(1))
    sender = await raw(database)
    async with running(listener.run()):
        await asyncio.wait_for(listener.connected.wait(), 10)
        await sender.execute("NOTIFY c, 'first'")
        await eventually(lambda: heard == ["first"])
        assert await kill(database, "runwire listener") == 1
        await eventually(lambda: len(connects) == 2)
        await asyncio.wait_for(listener.connected.wait(), 10)
        await sender.execute("NOTIFY c, 'second'")
        await eventually(lambda: heard == ["first", "second"])
    await sender.close()


async def test_a_listener_whose_server_went_silent_connects_again_once(database: str) -> None:
    heard: list[str] = []
    wire = Wire(database)
    async with wire.open() as dsn:
        listener = Listener(Database(dsn), {"c": heard.append}, check_s=0.3)
        sender = await raw(database)
        async with running(listener.run()):
            await asyncio.wait_for(listener.connected.wait(), 10)
            wire.silent = True
            await eventually(lambda: not listener.connected.is_set())
            wire.silent = False
            await asyncio.wait_for(listener.connected.wait(), 10)
            connects = wire.connects
            for n in range(5):  # it stays connected: each is heard
                await sender.execute(f"NOTIFY c, '{n}'")
                await eventually(lambda: len(heard) == n + 1)  # noqa: B023  # asked before n goes on
            assert wire.connects == connects
        await sender.close()


async def test_a_listener_whose_connection_makes_no_sense_any_more_connects_again(database: str) -> None:
    """As after an answer of which a part was lost."""
    wire = Wire(database)
    async with wire.open() as dsn:
        listener = Listener(Database(dsn), {"c": lambda _payload: None}, check_s=0.1)
        async with running(listener.run()):
            await asyncio.wait_for(listener.connected.wait(), 10)

            def connects_again() -> bool:
                wire.say(b"T\x00\x00\x00\x06\x00\x01")  # in the answer to a query it would do no harm
                return wire.connects >= 2

            await eventually(connects_again, within_s=20)
            await asyncio.wait_for(listener.connected.wait(), 10)


async def test_a_deaf_listener_is_found_named_and_opened_again_until_it_hears(database: str) -> None:
    heard: list[str] = []
    deaf: list[int] = []
    look = await raw(database)
    troubles = Troubles()

    async def named() -> list[str]:
        rows = await look.fetch(
            "SELECT application_name FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'runwire deaf %'"
        )
        return [row[0] for row in rows]

    with capture_logs() as lines:
        async with Way(database).open() as way, Database(way.dsn, troubles=troubles) as db:
            listener = Listener(db, {"c": heard.append}, place="api-1:7", on_deaf=lambda: deaf.append(1), check_s=0.2)
            async with running(listener.run()):
                assert set(await eventually(named, within_s=30)) == {"runwire deaf listener of api-1:7"}
                assert [trouble.duty for trouble in troubles.lasting(0)] == [Duty.HEAR]
                await eventually(lambda: way.connects >= 4, within_s=30)  # the pool has one of them
                way.muffled = False

                async def hears() -> bool:
                    await look.execute("NOTIFY c, 'again'")
                    return bool(heard) and not troubles.lasting(0) and not await named()

                await eventually(hears, within_s=30)
    assert len(deaf) >= 2
    assert {line["code"] for line in lines if line["event"] == "database_unavailable"} == {"listener_deaf"}
    assert {line["listener"] for line in lines if line["event"] == "database_unavailable"} == {"listener"}
    assert "database_recovered" in [line["event"] for line in lines]
    await look.close()


async def test_a_listener_that_hears_stays_connected_while_the_pool_has_a_trouble(database: str) -> None:
    heard: list[str] = []
    connects: list[int] = []
    db = Database(database)  # never entered: its pool is closed
    listener = Listener(db, {"c": heard.append}, on_connected=lambda: connects.append(1))
    sender = await raw(database)
    async with running(listener.run()):
        for n in range(5):  # a check goes by meanwhile
            await asyncio.wait_for(listener.connected.wait(), 10)
            await sender.execute(f"NOTIFY c, '{n}'")
            await eventually(lambda: len(heard) == n + 1)  # noqa: B023  # asked before n goes on
    assert connects == [1]
    await sender.close()


async def test_a_listener_that_cannot_listen_leaves_no_connection_open(database: str) -> None:
    """It connects, then LISTEN fails, again and again."""
    listener = Listener(Database(database), {"c" * 5000 + "\x00": lambda _payload: None})
    look = await raw(database)

    async def open_connections() -> int:
        found: int = await look.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'runwire listener' "
            "AND datname = current_database()"
        )
        return found

    task = asyncio.create_task(listener.run())
    await asyncio.wait({task}, timeout=1.0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    async def none() -> bool:
        return await open_connections() == 0

    await eventually(none)
    await look.close()


async def test_hints_that_gather_go_out_together_and_each_once(database: str) -> None:
    heard: list[str] = []
    listener = Listener(Database(database), {"c": heard.append})
    async with Database(database) as db:
        notifier = Notifier(db)
        async with running(listener.run(), notifier.run()):
            await asyncio.wait_for(listener.connected.wait(), 10)
            for n in range(100):
                notifier.send("c", [f"run-{n % 10}"])
            await eventually(lambda: heard)
            assert heard == [" ".join(f"run-{n}" for n in range(10))]


async def test_a_hint_that_cannot_be_sent_is_dropped_and_the_next_one_goes(database: str) -> None:
    heard: list[str] = []
    listener = Listener(Database(database), {"c": heard.append})
    async with Database(database) as db:
        notifier = Notifier(db)
        async with running(listener.run(), notifier.run()):
            await asyncio.wait_for(listener.connected.wait(), 10)
            notifier.send("c", ["before"])
            await eventually(lambda: heard == ["before"])
            assert await kill(database, "runwire notify") == 1
            n = 0

            async def heard_more() -> bool:
                nonlocal n
                n += 1
                notifier.send("c", [f"after-{n}"])
                return len(heard) > 1

            await eventually(heard_more)


async def test_hints_given_just_before_the_end_still_go(database: str) -> None:
    heard: list[str] = []
    listener = Listener(Database(database), {"c": heard.append})
    async with Database(database) as db, running(listener.run()):
        await asyncio.wait_for(listener.connected.wait(), 10)
        notifier = Notifier(db)
        async with running(notifier.run()):
            await asyncio.sleep(0)  # its loop has begun
            notifier.send("c", ["last-words"])
        await eventually(lambda: heard == ["last-words"])


@given(st.lists(st.text("abc-._:0123456789", min_size=1, max_size=128), max_size=300))
def test_words_are_packed_into_payloads_that_fit_in_order(words: list[str]) -> None:
    payloads = packed(words)
    assert [word for payload in payloads for word in payload.split(" ")] == words
    assert all(0 < len(payload) <= PAYLOAD_MAX for payload in payloads)


async def test_partitions_are_made_ahead_by_any_number_of_processes_at_once(database: str) -> None:
    async with Database(database, pool_size=8) as db:
        made = await asyncio.gather(*(PartitionUpkeep(db, days_ahead=20).ensure() for _ in range(8)))
        assert max(made) == 13
        days = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'run_events'::regclass"
        assert await db.fetchval(days) == 22  # yesterday to 20 days from today
        assert await PartitionUpkeep(db, days_ahead=20).ensure() == 0


async def test_partitions_are_made_while_events_are_appended(database: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")

        async def append() -> None:
            for _ in range(50):
                await s.log.append("r", [debug_trace("x")], fence=fence, source=Source.API)

        await asyncio.gather(append(), *(PartitionUpkeep(s.database, days_ahead=n).ensure() for n in (10, 14, 18)))
        assert len(await s.events("r")) == 51


async def test_partitions_are_made_for_the_days_of_utc_whatever_the_session_says(database: str) -> None:
    connection = await raw(database)
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):  # one of them has another date at any moment
        await connection.execute(f"SET timezone = '{zone}'")
        await connection.execute("SELECT ensure_event_partitions(7)")
    days = await connection.fetch(
        "SELECT to_char((now() AT TIME ZONE 'UTC')::date + n, 'YYYYMMDD') FROM generate_series(-1, 7) AS n"
    )
    partitions = await connection.fetch(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'run_events'::regclass ORDER BY 1"
    )
    assert [row[0] for row in partitions] == [f"run_events_{day[0]}" for day in days]
    await connection.close()


async def test_a_run_that_lives_past_midnight_keeps_its_events_in_the_partition_of_its_first_day(
    database: str,
) -> None:
    async with stages(database) as s:
        await s.control.start(StartRequest(agent="theirs", run_id="r", external=True))
        await s.database.execute("UPDATE runs SET run_day = run_day - 1")
        await s.database.execute("UPDATE run_outbox SET run_day = run_day - 1")
        await s.log.append("r", [RUN_STARTED], fence=1, source=Source.API, change=Change(RunState.STARTED))
        await s.log.append("r", [debug_trace("x")], fence=1, source=Source.API)
        where = await s.database.fetch(
            "SELECT DISTINCT tableoid::regclass::text = "
            "'run_events_' || to_char((now() AT TIME ZONE 'UTC')::date - 1, 'YYYYMMDD') FROM run_events"
        )
        assert [row[0] for row in where] == [True]
        bus = RecordingBus()
        publisher = s.publisher(bus)
        publisher.mark_dirty(["r"], by="local")
        await publisher.publish_pending()
        await publisher.aclose()
        assert bus.seqs("r") == [1, 2]
