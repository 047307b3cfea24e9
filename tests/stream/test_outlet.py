"""Writing past the transport: to the right sockets, in order, and never to one that is no longer the client's."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
import uvloop

from runwire.bus import Published
from runwire.bus.memory import MemoryBus
from runwire.db import Database
from runwire.model.run import RunState
from runwire.settings import Settings
from runwire.stream import outlet
from runwire.stream.hub import Hub
from runwire.stream.limits import Limits
from runwire.stream.outlet import Outlet, Writes, handle, send_each
from runwire.stream.reader import LogReader, Position
from stream.feed import fresh_metrics, made_event

pytest.importorskip("runwire.stream._sockets", reason="runwire was installed without a C compiler")


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    with ExitStack() as stack:
        made = [socket.socketpair() for _ in range(3)]
        for pair in made:
            for end in pair:
                end.setblocking(False)
                stack.enter_context(end)
        yield made


def received(end: socket.socket) -> int:
    """How many bytes had arrived, until there are no more."""
    total = 0
    with suppress(BlockingIOError):
        while True:
            total += len(end.recv(1_000_000))
    return total


def test_each_socket_gets_its_own_piece_and_one_that_is_named_twice_gets_both_in_order(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    near = [handle(pair[0].fileno()) for pair in pairs]
    assert send_each([*near, near[0]], [b"a", b"bb", b"ccc", b"dddd"]) == []
    assert [pair[1].recv(100) for pair in pairs] == [b"adddd", b"bb", b"ccc"]
    assert send_each([], []) == []


def test_what_is_not_taken_is_told_and_holds_up_nobody(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    full, gone, well = pairs
    large = bytes(10_000_000)
    gone[1].close()
    nobody = handle(full[0].fileno()) + 5000  # a descriptor that is not open
    short = send_each([*(handle(pair[0].fileno()) for pair in pairs), nobody], [large, b"b", b"c", b"d"])
    assert [at for at, _ in short] == [0, 1, 3]
    assert 0 < short[0][1] < len(large)
    assert [taken for _, taken in short[1:]] == [0, 0]
    assert well[1].recv(100) == b"c"
    assert received(full[1]) == short[0][1]


@pytest.mark.parametrize(
    ("sockets", "pieces", "error"),
    [
        ([1], [], TypeError),
        ((1,), [b"a"], TypeError),
        ([1], (b"a",), TypeError),
        (["1"], [b"a"], TypeError),
        ([1], ["a"], TypeError),
        ([1], [bytearray(b"a")], TypeError),
        ([-1], [b"a"], OverflowError),
        ([2**64], [b"a"], OverflowError),
    ],
)
def test_anything_but_descriptors_and_bytes_is_refused_and_nothing_is_sent(
    pairs: list[tuple[socket.socket, socket.socket]], sockets: object, pieces: object, error: type[Exception]
) -> None:
    near, far = pairs[0]
    if isinstance(sockets, list) and isinstance(pieces, list):
        sockets, pieces = [handle(near.fileno()), *sockets], [b"first", *pieces]
    with pytest.raises(error):
        send_each(sockets, pieces)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        send_each([handle(near.fileno())])  # type: ignore[call-arg]
    with pytest.raises(BlockingIOError):
        far.recv(1)


def test_a_handle_is_of_one_socket_for_as_long_as_it_is_open(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    (near, _), (other_near, other_far), _ = pairs
    handles = {handle(end.fileno()) for pair in pairs for end in pair}
    assert len(handles) == 6
    assert handle(near.fileno()) in handles
    given = handle(near.fileno())
    os.dup2(other_near.fileno(), near.fileno())
    assert send_each([given, handle(near.fileno())], [b"a", b"b"]) == [(0, 0)]
    assert other_far.recv(100) == b"b"
    read, write = os.pipe()
    for descriptor in (-1, 2**30, 2**23, read):  # the last of them is open, and no socket
        with pytest.raises(OSError):  # noqa: PT011  # whatever the system calls it
            handle(descriptor)
    os.close(read)
    os.close(write)


class Teller:
    def __init__(self) -> None:
        self.told: list[tuple[str, bytes]] = []

    def fell_short(self, client: str, rest: bytes) -> None:
        self.told.append((client, rest))


def test_writes_are_made_together_and_each_whose_client_falls_short_is_told(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    full, gone, well = (handle(pair[0].fileno()) for pair in pairs)
    pairs[1][1].close()
    writes, one, other = Writes(), Teller(), Teller()
    large = bytes(10_000_000)
    writes.add(one, large, {"full": full})
    writes.add(other, b"small", {"gone": gone, "well": well})
    with pytest.raises(BlockingIOError):
        pairs[2][1].recv(1)
    writes.make()
    assert pairs[2][1].recv(100) == b"small"
    assert other.told == [("gone", b"small")]
    ((client, rest),) = one.told
    assert client == "full"
    assert received(pairs[0][1]) == len(large) - len(rest)
    writes.make()  # once is enough
    assert (len(one.told), len(other.told)) == (1, 1)


async def test_a_connection_that_is_encrypted_or_has_no_socket_is_written_to_by_its_transport_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    near, far = socket.socketpair()
    with near, far:
        plain = asyncio.Transport({"socket": near})
        assert Outlet.of(plain).socket == handle(near.fileno())
        assert Outlet.of(plain, chunked=False).socket == 0
        assert Outlet.of(asyncio.Transport({"socket": near, "sslcontext": object()})).socket == 0
        assert Outlet.of(asyncio.Transport()).socket == 0
        monkeypatch.setattr(outlet, "handle", None)  # as where there was no C compiler
        assert Outlet.of(plain).socket == 0


class Seat:
    """A client at the tail of a run, on a connection of the event loop's own."""

    cursor = 0
    woken = 0

    def __init__(self, outlet: Outlet, descriptor: int) -> None:
        self.outlet = outlet
        self.descriptor = descriptor

    def wake(self) -> None:
        self.woken += 1


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_nothing_goes_to_whoever_has_the_descriptor_of_a_connection_that_is_gone(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def play() -> None:
        hub = Hub(
            "run-1",
            bus=MemoryBus(),
            reader=LogReader(Database("never opened")),
            metrics=fresh_metrics(),
            limits=Limits.of(Settings()),
            on_behind=lambda _hub: None,
        )
        hub.learn(Position("run-1", dt.date(2026, 1, 1), RunState.STARTED, 0, 0))

        def say(seq: int) -> None:
            hub.deliver(Published("run-1", seq, seq, (made_event(seq),)))

        (near, far), (other_near, other_far) = socket.socketpair(), socket.socketpair()
        far.setblocking(False)
        other_far.setblocking(False)
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=near)
        seat = Seat(Outlet.of(transport), near.fileno())
        hub.follow(seat)
        say(1)
        await asyncio.sleep(0)
        assert b'"seq":1' in far.recv(1000)

        # It is closing when it is flushed, which does no harm; then its descriptor is somebody else's.
        transport.abort()
        say(2)
        descriptor = seat.descriptor
        while _is_open(descriptor):  # noqa: ASYNC110  # the loop closes it, and says so to nobody
            await asyncio.sleep(0)
        os.dup2(other_near.fileno(), descriptor)
        for seq in (3, 4):  # by its socket, then by its transport, which nobody has told the hub to leave
            say(seq)
            await asyncio.sleep(0)
            with pytest.raises(BlockingIOError):
                other_far.recv(1)
        assert b'"seq":3' not in far.recv(1000)
        os.close(descriptor)
        for end in (far, other_near, other_far):
            end.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(play())


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
