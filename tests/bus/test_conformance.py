"""Rules for every bus: a run's messages come in order to each of its subscribers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from nats_server import nats_server
from pipeline import raw
from runwire.bus import BusReader, BusWriter, Published
from runwire.bus.memory import MemoryBus
from runwire.bus.nats import NatsBusReader, NatsBusWriter, NatsOptions
from runwire.bus.postgres import PostgresBusReader, PostgresBusWriter
from runwire.db import Database
from runwire.db.notify import PAYLOAD_MAX
from runwire.errors import BusUnavailable
from runwire.model.event import StoredEvent
from waiting import eventually


@dataclass
class Bus:
    """`cut` breaks every connection the bus has, and returns when it is connected again; None where it has none."""

    writer: BusWriter
    reader: BusReader
    carries_events: bool
    cut: Callable[[], Awaitable[None]] | None = None
    missed: list[None] = field(default_factory=list)


@asynccontextmanager
async def memory(_dsn: str) -> AsyncIterator[Bus]:
    bus = MemoryBus()
    yield Bus(bus, bus, carries_events=True)


@asynccontextmanager
async def postgres(dsn: str) -> AsyncIterator[Bus]:
    missed: list[None] = []
    reader = PostgresBusReader(Database(dsn), on_connected=lambda: missed.append(None))

    async def cut() -> None:
        killer = await raw(dsn)
        before = len(missed)
        terminated = await killer.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name IN ('runwire bus listener', 'runwire bus') AND datname = current_database()"
        )
        assert terminated >= 1
        await killer.close()
        await eventually(lambda: len(missed) > before, within_s=10)

    async with running(reader.listener.run()), Database(dsn) as database:
        session = database.session("bus")
        await asyncio.wait_for(reader.listener.connected.wait(), 5)
        yield Bus(PostgresBusWriter(session), reader, carries_events=False, cut=cut, missed=missed)
        await session.aclose()


@asynccontextmanager
async def nats(_dsn: str) -> AsyncIterator[Bus]:
    missed: list[None] = []
    async with nats_server() as server:
        options = NatsOptions((server.url,))
        writer = NatsBusWriter(options)
        reader = NatsBusReader(options, on_missed=lambda: missed.append(None))

        async def connected() -> None:
            for link in (writer.link, reader.link):
                await asyncio.wait_for(link.connected.wait(), 10)

        async def cut() -> None:
            server.stop()
            await eventually(lambda: not writer.link.connected.is_set() and not reader.link.connected.is_set())
            await server.start()
            await connected()

        async with running(writer.link.run()), running(reader.link.run()):
            await connected()
            yield Bus(writer, reader, carries_events=True, cut=cut, missed=missed)


@asynccontextmanager
async def running(loop: Coroutine[object, object, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(loop)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


BUSES = {"memory": memory, "postgres": postgres, "nats": nats}


@pytest.fixture(params=BUSES)
async def bus(request: pytest.FixtureRequest, database: str) -> AsyncIterator[Bus]:
    async with BUSES[request.param](database) as found:
        yield found


@pytest.fixture(params=[name for name in BUSES if name != "memory"])
async def wired(request: pytest.FixtureRequest, database: str) -> AsyncIterator[Bus]:
    """A bus with connections that may break."""
    async with BUSES[request.param](database) as found:
        yield found


def message(run_id: str, first: int, last: int) -> Published:
    events = tuple(StoredEvent(seq, 0, "DebugTrace", None, "x") for seq in range(first, last + 1))
    return Published(run_id, first, last, events)


async def test_messages_of_a_run_come_in_order_and_only_its_own(bus: Bus) -> None:
    got: list[Published] = []
    async with bus.reader.subscribe("r", got.append):
        for n in range(1, 30, 3):
            await bus.writer.publish([message("other", n, n), message("r", n, n + 2)])
        await eventually(lambda: len(got) == 10)
    assert [(m.run_id, m.first_seq, m.last_seq) for m in got] == [("r", n, n + 2) for n in range(1, 30, 3)]
    for m in got:
        if bus.carries_events:
            assert [event.seq for event in m.events or ()] == [m.first_seq, m.first_seq + 1, m.first_seq + 2]
        else:
            assert m.events is None


async def test_every_subscriber_gets_every_message_until_it_leaves(bus: Bus) -> None:
    one: list[Published] = []
    two: list[Published] = []
    async with bus.reader.subscribe("r", one.append):
        async with bus.reader.subscribe("r", two.append):
            await bus.writer.publish([message("r", 1, 1)])
            await eventually(lambda: (len(one), len(two)) == (1, 1))
        await bus.writer.publish([message("r", 2, 2)])
        await eventually(lambda: len(one) == 2)
    assert len(two) == 1
    async with bus.reader.subscribe("r", two.append):  # and may come back
        await bus.writer.publish([message("r", 3, 3)])
        await eventually(lambda: len(two) == 2)
    assert (len(one), [m.last_seq for m in two]) == (2, [1, 3])


async def test_a_batch_of_any_size_goes_out(bus: Bus) -> None:
    last: list[Published] = []
    long_ids = [f"{n:04d}" + "x" * 124 for n in range(300)]
    assert sum(map(len, long_ids)) > 4 * PAYLOAD_MAX
    async with bus.reader.subscribe(long_ids[0], last.append), bus.reader.subscribe(long_ids[-1], last.append):
        await bus.writer.publish([message(run_id, 1, 2) for run_id in long_ids])
        await eventually(lambda: len(last) == 2)
    assert [m.run_id for m in last] == [long_ids[0], long_ids[-1]]


async def test_a_subscriber_may_leave_while_it_is_told(bus: Bus) -> None:
    got: list[int] = []
    left = asyncio.Event()

    def hear_once(m: Published) -> None:
        got.append(m.last_seq)
        left.set()

    async def one_shot() -> None:
        async with bus.reader.subscribe("r", hear_once):
            await left.wait()

    leaving = asyncio.create_task(one_shot())
    await asyncio.sleep(0)
    others: list[Published] = []
    async with bus.reader.subscribe("r", others.append):
        await bus.writer.publish([message("r", 1, 1)])
        await leaving
        await bus.writer.publish([message("r", 2, 2)])
        await eventually(lambda: len(others) == 2)
    assert got == [1]


async def test_one_callback_may_subscribe_more_than_once(bus: Bus) -> None:
    got: list[Published] = []
    deliver = got.append
    async with bus.reader.subscribe("r", deliver):
        async with bus.reader.subscribe("r", deliver):
            await bus.writer.publish([message("r", 1, 1)])
            await eventually(lambda: len(got) == 2)
        await bus.writer.publish([message("r", 2, 2)])
        await eventually(lambda: len(got) == 3)


async def test_a_subscriber_that_fails_harms_neither_the_publisher_nor_the_others(bus: Bus) -> None:
    got: list[Published] = []

    def fail(_: Published) -> None:
        raise ValueError("a defect of this subscriber")

    async with bus.reader.subscribe("r", fail), bus.reader.subscribe("r", got.append):
        await bus.writer.publish([message("r", 1, 1), message("r", 2, 2)])
        await eventually(lambda: [m.last_seq for m in got] == [1, 2])


async def test_after_its_connections_were_cut_the_bus_says_so_and_delivers_again(wired: Bus) -> None:
    got: list[Published] = []
    assert wired.cut is not None
    assert len(wired.missed) == 1
    async with wired.reader.subscribe("r", got.append):
        await wired.writer.publish([message("r", 1, 1)])
        await eventually(lambda: [m.last_seq for m in got] == [1])
        await wired.cut()
        assert len(wired.missed) == 2, "who listens is told to look for what it may have missed"
        late: list[Published] = []
        async with wired.reader.subscribe("late", late.append):
            await until_taken(wired.writer, [message("r", 2, 2), message("late", 1, 1)])
            await eventually(lambda: [m.last_seq for m in got] == [1, 2])
            await eventually(lambda: len(late) == 1)


async def test_who_left_while_the_connection_was_away_hears_nothing(wired: Bus) -> None:
    gone: list[Published] = []
    stays: list[Published] = []
    assert wired.cut is not None
    async with wired.reader.subscribe("r", stays.append):
        async with wired.reader.subscribe("r", gone.append), wired.reader.subscribe("other", gone.append):
            pass
        await wired.cut()
        await until_taken(wired.writer, [message("r", 1, 1), message("other", 1, 1)])
        await eventually(lambda: len(stays) == 1)
    assert gone == []


async def test_an_empty_batch_tells_whether_the_bus_is_there(bus: Bus) -> None:
    await bus.writer.publish([])


async def until_taken(writer: BusWriter, messages: list[Published]) -> None:
    """As the publisher does: again, for as long as the bus says that it is away."""

    async def taken() -> bool:
        with contextlib.suppress(BusUnavailable):
            await writer.publish(messages)
            return True
        return False

    await eventually(taken, within_s=10)


async def test_a_bus_that_cannot_send_says_so() -> None:
    async with Database("postgresql://nobody@127.0.0.1:1/none", timeout_s=1) as database:
        writer = PostgresBusWriter(database.session("bus"))
        with pytest.raises(BusUnavailable):
            await writer.publish([message("r", 1, 1)])
