"""Many clients get their pieces in one call or by threads: in order, reported when done, and nobody is held up."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from runwire.stream.fanout import Deliveries, LoopSender, Scheduler, Sender, ThreadSender, open_sender
from runwire.stream.fanout import sender as module
from runwire.stream.fanout.outlet import NativeSender, Socket
from runwire.stream.limits import BATCHES_MAX
from runwire.telemetry.metrics import DeliveryPath
from stream.feed import count, fresh_metrics, held

pytest.importorskip("runwire.stream.fanout._sockets", reason="runwire was installed without a C compiler")

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


class Broken(Deliveries):
    """Has a defect."""

    def tell(self, _delivered: object) -> None:
        raise RuntimeError("a defect")


class Writes:
    """A fan-out's side of a scheduler, which writes when a test says so."""

    def __init__(self, sender: Sender, deliveries: Deliveries | None = None) -> None:
        self.scheduler = Scheduler(sender, deliveries or Deliveries(fresh_metrics()))

    def add(self, piece: bytes, *clients: Client) -> None:
        self.scheduler.add(self, piece, {client: client.socket for client in clients})

    def write(self, piece: bytes, *clients: Client) -> None:
        """A batch of one piece, which counts as one event for each client."""
        self.add(piece, *clients)
        self.scheduler.deliver([(1, 1)], clients=len(clients))
        self.scheduler.send()

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


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


async def test_few_are_written_at_once_and_many_by_threads_while_the_loop_goes_on(clients: list[Client]) -> None:
    sender = ThreadSender(few=1)
    writes = Writes(sender)
    writes.add(b"a", clients[0])
    assert clients[0].got == b""
    writes.scheduler.send()
    assert clients[0].got == b"a"
    assert not sender.under_way
    await writes.scheduler.settled()

    writes.add(b"b", clients[0], clients[1])
    writes.add(b"c", clients[2])
    writes.scheduler.send()
    assert sender.under_way
    await writes.scheduler.settled()
    assert not sender.under_way
    assert [client.got for client in clients] == [b"b", b"b", b"c"]
    sender.close()


async def test_a_few_follow_what_is_under_way(clients: list[Client]) -> None:
    sender = ThreadSender(few=1)
    writes = Writes(sender)
    writes.write(b"a", *clients)
    writes.write(b"b", clients[0])
    await writes.scheduler.settled()
    assert clients[0].got == b"ab"
    assert not sender.under_way
    sender.close()


async def test_as_much_is_under_way_as_the_threads_take_and_room_is_told(clients: list[Client]) -> None:
    sender = ThreadSender(few=0)
    writes = Writes(sender)
    room: list[bool] = []
    sender.on_room = lambda: room.append(sender.full)
    for n in range(BATCHES_MAX):
        assert not sender.full
        writes.write(b"%d" % n, clients[0])
    assert sender.full
    await writes.scheduler.settled()
    assert not sender.full
    assert room[-1] is False
    assert clients[0].got == b"0123456789"[:BATCHES_MAX]
    sender.close()


async def test_a_client_that_falls_short_gets_all_that_follows_by_its_transport_in_order(
    clients: list[Client],
) -> None:
    full, well, _ = clients
    sender = ThreadSender(few=0)
    writes = Writes(sender)
    for piece in (LARGE, b"b", b"c"):
        writes.write(piece, full, *([well] if piece != LARGE else []))
    sender.finish()
    assert not sender.under_way  # after a short send every batch is finished: nothing can overtake the rest
    rest, *later = full.rest
    assert later == [b"b", b"c"]
    assert LARGE.endswith(rest)
    assert len(full.got) + len(rest) == len(LARGE)
    assert well.got == b"bc"
    full.socket.reopen()
    writes.write(b"d", full)
    await writes.scheduler.settled()
    assert full.got == b"d"
    assert full.rest == [rest, b"b", b"c"]
    sender.close()


async def test_deliveries_are_counted_when_they_are_made(clients: list[Client]) -> None:
    metrics = fresh_metrics()
    live = metrics.events_delivered[DeliveryPath.LIVE]
    sender = ThreadSender(few=0)
    writes = Writes(sender, Deliveries(metrics))
    writes.add(b"a", *clients)
    writes.scheduler.deliver([(1, 1), (1, 2)], clients=3)
    assert count(live) == 0
    writes.scheduler.send()
    assert count(live) == 0  # the loop has not heard yet
    await writes.scheduler.settled()
    assert count(live) == 6
    writes.scheduler.deliver([(1, 3)], clients=5)  # by their transports, all of them
    writes.scheduler.send()
    await writes.scheduler.settled()
    assert count(live) == 11
    sender.close()


async def test_nothing_overtakes_what_a_client_could_not_take_though_something_breaks(clients: list[Client]) -> None:
    full, sender = clients[0], held()
    writes = Writes(sender, Broken(fresh_metrics()))
    for piece in (LARGE, b"b"):
        writes.write(piece, full)
    with pytest.raises(RuntimeError):
        sender.finish()
    assert not sender.under_way
    assert full.rest[1:] == [b"b"]
    sender.close()


async def test_whoever_waits_goes_on_and_others_come_in_though_something_breaks(clients: list[Client]) -> None:
    sender = held()
    writes = Writes(sender, Broken(fresh_metrics()))
    writes.write(b"a", *clients)
    waiting = asyncio.create_task(writes.scheduler.settled())
    await asyncio.sleep(0)
    heard: list[bool] = []
    while sender.under_way:
        heard.clear()
        sender.on_room = lambda: heard.append(sender.full)
        with suppress(RuntimeError):
            sender.look()
    assert heard == [False]
    await asyncio.wait_for(waiting, 5)
    sender.close()


async def test_what_is_done_is_heard_of_though_something_breaks_and_nothing_follows(clients: list[Client]) -> None:
    sender = ThreadSender(few=0)
    writes = Writes(sender, Broken(fresh_metrics()))
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    for piece in (b"a", b"b", b"c"):
        writes.write(piece, *clients)
    await asyncio.wait_for(writes.scheduler.settled(), 5)
    assert (writes.scheduler.ended, writes.scheduler.gathering, sender.under_way) == (3, 4, 0)
    assert clients[0].got == b"abc"
    sender.close()


async def test_a_batch_that_could_not_be_told_of_is_over_all_the_same(clients: list[Client]) -> None:
    writes = Writes(ThreadSender(few=100), Broken(fresh_metrics()))
    for _ in range(3):
        with pytest.raises(RuntimeError):
            writes.write(b"a", *clients)
    assert (writes.scheduler.ended, writes.scheduler.gathering) == (3, 4)


async def test_close_ends_what_is_under_way_and_the_threads(clients: list[Client]) -> None:
    before = threads()
    sender = ThreadSender(few=0)
    writes = Writes(sender)
    writes.write(b"a", *clients)
    assert threads() > before
    sender.close()
    sender.close()
    assert threads() == before
    assert clients[0].got == b"a"
    writes.write(b"b", *clients)  # from here on at once
    assert clients[0].got == b"b"


async def test_on_one_processor_there_are_no_threads(clients: list[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0})
    sender = open_sender()
    assert isinstance(sender, LoopSender)
    writes = Writes(sender)
    for piece in (b"a", LARGE, b"b"):
        writes.write(piece, *clients)
    assert clients[0].got.startswith(b"a")
    assert clients[0].rest[1:] == [b"b"]
    assert not sender.under_way
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1})
    assert isinstance(open_sender(), ThreadSender)


async def test_without_threads_it_is_said_once_and_everything_is_written_at_once(
    clients: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left() -> NativeSender:
        raise OSError("no threads left")

    monkeypatch.setattr(module, "NativeSender", none_left)
    sender = ThreadSender(few=0)
    writes = Writes(sender)
    with capture_logs() as logged:
        for piece in (b"a", b"b"):
            writes.write(piece, *clients)
    assert clients[0].got == b"ab"
    assert len(logged) == 1
    sender.close()
