"""What many clients get by one call or by threads: in order, told when it is done, and nobody is held up."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from runwire.stream import writes as module
from runwire.stream.deliveries import Deliveries
from runwire.stream.outlet import JOBS, Sender, Socket
from runwire.stream.writes import Writes
from runwire.telemetry.metrics import DeliveryPath
from stream.feed import Held, count, fresh_metrics

pytest.importorskip("runwire.stream._sockets", reason="runwire was installed without a C compiler")

LARGE = bytes(10_000_000)


class Client:
    """`got` reads what has arrived; `rest` is what went by its transport."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.setblocking(False)
        self.socket = Socket(self.near.fileno())
        self.rest: list[bytes] = []

    @property
    def got(self) -> bytes:
        got = b""
        try:
            while True:
                got += self.far.recv(1_000_000)
        except BlockingIOError:
            return got


class Hub:
    """Whose clients they are."""

    def fell_short(self, client: Client, rest: bytes) -> None:
        client.rest.append(rest)


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    with ExitStack() as stack:
        made = [Client() for _ in range(3)]
        for client in made:
            stack.enter_context(client.near)
            stack.enter_context(client.far)
        yield made


@pytest.fixture(autouse=True)
def several_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1})


def given(writes: Writes, piece: bytes, *clients: Client) -> None:
    writes.add(Hub(), piece, {client: client.socket for client in clients})


async def test_few_are_written_at_once_and_many_by_threads_while_the_loop_goes_on(clients: list[Client]) -> None:
    writes = Writes(Deliveries(fresh_metrics()), few=1)
    given(writes, b"a", clients[0])
    assert clients[0].got == b""
    writes.make()
    assert clients[0].got == b"a"
    assert not writes.under_way
    await writes.settled()

    given(writes, b"b", clients[0], clients[1])
    given(writes, b"c", clients[2])
    writes.make()
    assert writes.under_way
    await writes.settled()
    assert not writes.under_way
    assert [client.got for client in clients] == [b"b", b"b", b"c"]
    writes.close()


async def test_a_few_follow_what_is_under_way(clients: list[Client]) -> None:
    writes = Writes(Deliveries(fresh_metrics()), few=1)
    given(writes, b"a", *clients)
    writes.make()
    given(writes, b"b", clients[0])
    writes.make()
    await writes.settled()
    assert clients[0].got == b"ab"
    assert not writes.under_way
    writes.close()


async def test_as_much_is_under_way_as_the_threads_take_and_room_is_told(clients: list[Client]) -> None:
    writes = Writes(Deliveries(fresh_metrics()), few=0)
    room: list[bool] = []
    writes.on_room = lambda: room.append(writes.full)
    for n in range(JOBS):
        assert not writes.full
        given(writes, b"%d" % n, clients[0])
        writes.make()
    assert writes.full
    await writes.settled()
    assert not writes.full
    assert room[-1] is False
    assert clients[0].got == b"0123456789"[:JOBS]
    writes.close()


async def test_who_falls_short_gets_all_that_follows_by_its_transport_in_order(clients: list[Client]) -> None:
    full, well, _ = clients
    writes = Writes(Deliveries(fresh_metrics()), few=0)
    for piece in (LARGE, b"b", b"c"):
        given(writes, piece, full)
        if piece != LARGE:
            given(writes, piece, well)
        writes.make()
    writes.finish()
    assert not writes.under_way  # when one is told to have fallen short, so is what follows: nothing can overtake it
    rest, *later = full.rest
    assert later == [b"b", b"c"]
    assert LARGE.endswith(rest)
    assert len(full.got) + len(rest) == len(LARGE)
    assert well.got == b"bc"
    full.socket.reopen()
    given(writes, b"d", full)
    writes.make()
    await writes.settled()
    assert full.got == b"d"
    assert full.rest == [rest, b"b", b"c"]
    writes.close()


async def test_deliveries_are_counted_when_they_are_made(clients: list[Client]) -> None:
    metrics = fresh_metrics()
    live = metrics.events_delivered[DeliveryPath.LIVE]
    writes = Writes(Deliveries(metrics), few=0)
    given(writes, b"a", *clients)
    writes.deliver([(1, 1), (1, 2)], clients=3)
    assert count(live) == 0
    writes.make()
    assert count(live) == 0  # the loop has not heard yet
    await writes.settled()
    assert count(live) == 6
    writes.deliver([(1, 3)], clients=5)  # by their transports, all of them
    writes.make()
    await writes.settled()
    assert count(live) == 11
    writes.close()


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


class Broken(Deliveries):
    """Has a defect."""

    def tell(self, _delivered: object) -> None:
        raise RuntimeError("a defect")


async def test_nothing_overtakes_what_somebody_could_not_take_though_something_breaks(clients: list[Client]) -> None:
    full = clients[0]
    writes = Held(Broken(fresh_metrics()), few=0)
    for piece in (LARGE, b"b"):
        given(writes, piece, full)
        writes.deliver([(1, 1)], clients=1)
        writes.make()
    with pytest.raises(RuntimeError):
        writes.finish()
    assert not writes.under_way
    assert full.rest[1:] == [b"b"]
    writes.close()


async def test_who_waits_is_let_go_and_others_come_in_though_something_breaks(clients: list[Client]) -> None:
    writes = Held(Broken(fresh_metrics()), few=0)
    given(writes, b"a", *clients)
    writes.deliver([(1, 1)], clients=3)
    writes.make()
    waiting = asyncio.create_task(writes.settled())
    await asyncio.sleep(0)
    heard: list[bool] = []
    while writes.under_way:
        heard.clear()
        writes.on_room = lambda: heard.append(writes.full)
        with suppress(RuntimeError):
            writes.look()
    assert heard == [False]
    await asyncio.wait_for(waiting, 5)
    writes.close()


async def test_what_is_done_is_heard_of_though_something_breaks_and_nothing_follows(clients: list[Client]) -> None:
    writes = Writes(Broken(fresh_metrics()), few=0)
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    for piece in (b"a", b"b", b"c"):
        given(writes, piece, *clients)
        writes.deliver([(1, 1)], clients=3)
        writes.make()
    await asyncio.wait_for(writes.settled(), 5)
    assert (writes.ended, writes.gathering, writes.under_way) == (3, 4, 0)
    assert clients[0].got == b"abc"
    writes.close()


async def test_a_batch_that_could_not_be_told_of_is_over_all_the_same(clients: list[Client]) -> None:
    writes = Writes(Broken(fresh_metrics()), few=100)
    for _ in range(3):
        given(writes, b"a", *clients)
        writes.deliver([(1, 1)], clients=3)
        with pytest.raises(RuntimeError):
            writes.make()
    assert (writes.ended, writes.gathering) == (3, 4)


async def test_close_ends_what_is_under_way_and_the_threads(clients: list[Client]) -> None:
    before = threads()
    writes = Writes(Deliveries(fresh_metrics()), few=0)
    given(writes, b"a", *clients)
    writes.make()
    assert threads() > before
    writes.close()
    writes.close()
    assert threads() == before
    assert clients[0].got == b"a"
    given(writes, b"b", *clients)  # from here on at once
    writes.make()
    assert clients[0].got == b"b"


async def test_on_one_processor_there_are_no_threads(clients: list[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0})
    writes = Writes(Deliveries(fresh_metrics()), few=0)
    given(writes, b"a", *clients)
    writes.make()
    assert clients[0].got == b"a"
    assert not writes.under_way


async def test_without_threads_it_is_said_once_and_everything_is_written_at_once(
    clients: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left() -> Sender:
        raise OSError("no threads left")

    monkeypatch.setattr(module, "Sender", none_left)
    writes = Writes(Deliveries(fresh_metrics()), few=0)
    with capture_logs() as logged:
        for piece in (b"a", b"b"):
            given(writes, piece, *clients)
            writes.make()
    assert clients[0].got == b"ab"
    assert len(logged) == 1
    writes.close()
