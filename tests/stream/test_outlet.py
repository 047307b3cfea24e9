"""Sockets written to past their transports: each gets what is its own, in order, for as long as it is somebody's."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import uvloop

from runwire.stream import outlet
from runwire.stream.outlet import JOBS, Outlet, Sender, Socket, send_each

pytest.importorskip("runwire.stream._sockets", reason="runwire was installed without a C compiler")

Pairs = list[tuple[socket.socket, socket.socket]]
LARGE = bytes(10_000_000)


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    with ExitStack() as stack:
        made = [socket.socketpair() for _ in range(3)]
        for pair in made:
            for end in pair:
                end.setblocking(False)
                stack.enter_context(end)
        yield made


@pytest.fixture
def sender() -> Iterator[Sender]:
    made = Sender()
    yield made
    made.close()


def received(end: socket.socket) -> int:
    """How many bytes had arrived, until there are no more."""
    total = 0
    with suppress(BlockingIOError):
        while True:
            total += len(end.recv(1_000_000))
    return total


def wait_for(sender: Sender) -> None:
    assert select.select([sender], [], [], 10)[0]


def test_each_client_gets_its_own_piece_and_one_in_two_of_them_gets_both_in_order(pairs: Pairs) -> None:
    near = [Socket(pair[0].fileno()) for pair in pairs]
    assert send_each([b"a", b"bb", b"dddd"], [{"x": near[0]}, {"y": near[1], "z": near[2]}, {"x": near[0]}]) == []
    assert [pair[1].recv(100) for pair in pairs] == [b"adddd", b"bb", b"bb"]
    assert send_each([], []) == []


def test_what_is_not_taken_is_told_and_holds_up_nobody(pairs: Pairs) -> None:
    full, gone, well = (Socket(pair[0].fileno()) for pair in pairs)
    pairs[1][1].close()
    short = send_each([LARGE, b"b"], [{"full": full}, {"gone": gone, "well": well}])
    assert [(at, client) for at, client, _ in short] == [(0, "full"), (1, "gone")]
    assert 0 < short[0][2] < len(LARGE)
    assert short[1][2] == 0
    assert pairs[2][1].recv(100) == b"b"
    assert received(pairs[0][1]) == short[0][2]


def test_what_follows_a_part_of_a_piece_is_not_taken_until_the_socket_is_opened_again(pairs: Pairs) -> None:
    near, far = pairs[0]
    full = Socket(near.fileno())
    ((_, _, taken),) = send_each([LARGE], [{"full": full}])
    received(far)  # there is room by now, but what follows must not overtake the rest
    assert send_each([b"b"], [{"full": full}]) == [(0, "full", 0)]
    near.send(LARGE[taken : taken + 10])
    assert full.reopen() is full
    assert send_each([b"c"], [{"full": full}]) == []
    assert far.recv(100) == bytes(10) + b"c"


@pytest.mark.parametrize(
    ("pieces", "clients"),
    [
        ([b"a"], []),
        ((b"a",), [{}]),
        ([b"a"], ({},)),
        ([b"a"], [[]]),
        (["a"], [{}]),
        ([bytearray(b"a")], [{}]),
        ([b"a"], [{"x": 1}]),
        ([b"a"], [{"x": None}]),
    ],
)
def test_anything_but_bytes_and_sockets_is_refused_and_nothing_is_sent(
    pairs: Pairs, sender: Sender, pieces: object, clients: object
) -> None:
    near, far = pairs[0]
    if isinstance(pieces, list) and isinstance(clients, list):
        pieces, clients = [b"first", *pieces], [{"first": Socket(near.fileno())}, *clients]
    for send in (send_each, sender.start):
        with pytest.raises(TypeError):
            send(pieces, clients)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            send([b"a"])  # type: ignore[call-arg]
    with pytest.raises(BlockingIOError):
        far.recv(1)


def test_a_socket_is_of_an_open_connection_and_has_a_descriptor_of_its_own(pairs: Pairs) -> None:
    (near, far), (other_near, other_far), _ = pairs
    kept = Socket(near.fileno())
    os.dup2(other_near.fileno(), near.fileno())  # the descriptor is somebody else's now
    assert send_each([b"a", b"b"], [{"kept": kept}, {"new": Socket(near.fileno())}]) == []
    assert (far.recv(100), other_far.recv(100)) == (b"a", b"b")
    del kept
    assert far.recv(100) == b""  # the last descriptor of the first connection is closed
    read, write = os.pipe()
    for descriptor in (-1, 2**23, read):  # the last of them is open, and no socket
        with pytest.raises(OSError):  # noqa: PT011  # whatever the system calls it
            Socket(descriptor)
    os.close(read)
    os.close(write)


def test_where_descriptors_are_scarce_connections_do_without_a_second_one(pairs: Pairs) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    near = pairs[0][0]
    lowest_free = os.dup(near.fileno())
    os.close(lowest_free)
    limit = (lowest_free + 50) * 4 // 3
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        kept: list[Socket] = []
        with pytest.raises(OSError, match="Too many open files"):
            kept.extend(Socket(near.fileno()) for _ in range(limit))
        somebody = os.dup(near.fileno())
        assert somebody < limit - 10  # there are some to be given to who comes next
        os.close(somebody)
        assert Outlet.of(asyncio.Transport({"socket": near})).socket is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_thread_sends_what_is_started_in_order_and_tells_of_each_in_turn(pairs: Pairs, sender: Sender) -> None:
    near, far = pairs[0]
    well, full = Socket(near.fileno()), Socket(pairs[1][0].fileno())
    assert sender.sent() == 0
    sender.start([LARGE], [{"full": full}])
    for n in range(1, JOBS):
        sender.start([b"%d" % n, b"x"], [{"well": well}, {"full": full}])
    with pytest.raises(RuntimeError):
        sender.start([], [])
    ((at, client, taken),) = sender.finish()
    assert (at, client) == (0, "full")
    assert received(pairs[1][1]) <= taken  # there is room again, but nothing of what follows goes there
    for _ in range(1, JOBS):
        assert sender.finish() == [(1, "full", 0)]
    with pytest.raises(RuntimeError):
        sender.finish()
    assert far.recv(100) == b"123"[: JOBS - 1]
    assert sender.sent() == 0


def test_a_thread_makes_itself_heard_when_it_has_sent(pairs: Pairs, sender: Sender) -> None:
    near, far = pairs[0]
    assert not select.select([sender], [], [], 0)[0]
    sender.start([b"a"], [{"x": Socket(near.fileno())}])
    wait_for(sender)
    assert sender.sent() == 1
    assert not select.select([sender], [], [], 0)[0]
    assert sender.finish() == []
    assert far.recv(100) == b"a"


def test_what_is_being_sent_holds_on_to_its_socket_and_its_bytes(pairs: Pairs, sender: Sender) -> None:
    near, far = pairs[0]
    clients = {"x": Socket(near.fileno())}
    sender.start([bytes([7]) * 1000], [clients])
    clients.clear()
    near.close()
    assert sender.finish() == []
    assert far.recv(2000) == bytes([7]) * 1000
    assert far.recv(1) == b""


def test_a_closed_sender_lets_go_of_everything_and_takes_nothing(pairs: Pairs) -> None:
    near, far = pairs[0]
    sender = Sender()
    sender.start([b"a"], [{"x": Socket(near.fileno())}])
    near.close()
    sender.close()
    sender.close()
    with pytest.raises(RuntimeError):
        sender.start([], [])
    with pytest.raises(RuntimeError):
        sender.finish()
    assert sender.sent() == 0
    assert far.recv(100) in (b"a", b"")
    for _ in range(20):  # one that is forgotten ends its thread, too
        Sender()
    assert len(list(Path("/proc/self/task").iterdir())) < 20


def test_a_process_that_is_forked_has_no_thread_and_does_not_wait_for_it(sender: Sender) -> None:
    child = os.fork()
    if child == 0:
        sender.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    sender.start([], [])
    assert sender.finish() == []


async def test_a_connection_that_is_encrypted_or_has_no_socket_is_written_to_by_its_transport_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    near, far = socket.socketpair()
    with near, far:
        plain = asyncio.Transport({"socket": near})
        assert Outlet.of(plain).socket is not None
        assert Outlet.of(plain, chunked=False).socket is None
        assert Outlet.of(asyncio.Transport({"socket": near, "sslcontext": object()})).socket is None
        assert Outlet.of(asyncio.Transport()).socket is None
        monkeypatch.setattr(outlet, "Socket", None)  # as where there was no C compiler
        assert Outlet.of(plain).socket is None


class Listener(asyncio.Protocol):
    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.got = b""

    def data_received(self, data: bytes) -> None:
        self.got += data

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost.set()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_connection_ends_when_it_was_let_go_and_nobody_else_is_written_to(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def play() -> None:
        (near, far), (other_near, other_far) = socket.socketpair(), socket.socketpair()
        far.setblocking(False)
        other_far.setblocking(False)
        running = asyncio.get_running_loop()
        transport, listener = await running.create_connection(Listener, sock=near)
        descriptor = near.fileno()
        out = Outlet.of(transport)
        assert out.socket is not None
        assert send_each([b"a"], [{"client": out.socket}]) == []
        assert far.recv(10) == b"a"

        transport.abort()
        await listener.lost.wait()
        while _is_open(descriptor):  # noqa: ASYNC110  # the loop closes it, and says so to nobody
            await asyncio.sleep(0)
        os.dup2(other_near.fileno(), descriptor)  # somebody else is accepted
        far.send(b"nobody reads this")  # the loop has forgotten the connection, though it is still open
        for _ in range(5):
            await asyncio.sleep(0)
        assert listener.got == b""
        send_each([b"b"], [{"client": out.socket}])
        with pytest.raises(BlockingIOError):
            other_far.recv(1)
        assert far.recv(10) == b"b"
        out.let_go()
        with suppress(ConnectionResetError):  # what was sent to it was never read
            assert far.recv(10) == b""
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
