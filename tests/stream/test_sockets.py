"""Sockets written to past their transports: each gets what is its own, in order, for as long as it is somebody's."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import uvloop

from runwire.stream.fanout import outlet
from runwire.stream.fanout.outlet import Batch, Outlet, Socket
from runwire.stream.limits import BATCHES_MAX

pytest.importorskip("runwire.stream.fanout._sockets", reason="runwire was installed without a C compiler")

from runwire.stream.fanout._sockets import JOBS, Sender

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


def batch(*sends: tuple[bytes, dict[str, Socket]], whose: object = "fan-out") -> Batch:
    made = Batch()
    for piece, clients in sends:
        made.add(whose, piece, clients)
    return made


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
    sends = batch((b"a", {"x": near[0]}), (b"bb", {"y": near[1], "z": near[2]}), (b"dddd", {"x": near[0]}))
    assert len(sends) == 4
    assert sends.send() == []
    assert [pair[1].recv(100) for pair in pairs] == [b"adddd", b"bb", b"bb"]
    assert len(batch()) == 0
    assert batch().send() == []


def test_what_is_not_taken_is_told_and_holds_up_nobody(pairs: Pairs) -> None:
    full, gone, well = (Socket(pair[0].fileno()) for pair in pairs)
    pairs[1][1].close()
    sends = batch((LARGE, {"full": full}))
    sends.add("another", b"b", {"gone": gone, "well": well})
    (whose, client, rest), of_gone = sorted(sends.send(), key=lambda short: len(short[2]), reverse=True)
    assert (whose, client) == ("fan-out", "full")
    assert of_gone == ("another", "gone", b"b")
    assert pairs[2][1].recv(100) == b"b"
    assert 0 < received(pairs[0][1]) == len(LARGE) - len(rest)


def test_what_follows_a_part_of_a_piece_is_not_taken_until_the_socket_is_opened_again(pairs: Pairs) -> None:
    near, far = pairs[0]
    full = Socket(near.fileno())
    ((_, _, rest),) = batch((LARGE, {"full": full})).send()
    received(far)  # there is room by now, but what follows must not overtake the rest
    assert batch((b"b", {"full": full})).send() == [("fan-out", "full", b"b")]
    near.send(rest[:10])
    assert full.reopen() is full
    assert batch((b"c", {"full": full})).send() == []
    assert far.recv(100) == bytes(10) + b"c"


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ("fan-out", b"a"),
        ("fan-out", "a", {}),
        ("fan-out", bytearray(b"a"), {}),
        ("fan-out", b"a", []),
        ("fan-out", b"a", {"x": 1}),
        ("fan-out", b"a", {"x": None}),
    ],
)
def test_anything_but_bytes_and_sockets_is_refused_and_what_came_before_is_sent(
    pairs: Pairs, wrong: tuple[object, ...]
) -> None:
    near, far = pairs[0]
    sends = batch((b"first", {"first": Socket(near.fileno())}))
    if wrong and isinstance(wrong[-1], dict):  # what comes before it would do
        wrong = (*wrong[:-1], {"another": Socket(near.fileno())} | wrong[-1])
    with pytest.raises(TypeError):
        sends.add(*wrong)  # type: ignore[arg-type]
    assert len(sends) == 1
    assert sends.send() == []
    assert far.recv(100) == b"first"


def test_those_who_took_nothing_of_a_piece_share_it(pairs: Pairs) -> None:
    full = [Socket(near.fileno()) for near, _ in pairs]
    batch((LARGE, dict(zip("abc", full, strict=True)))).send()
    piece = bytes(1000)
    short = batch((piece, dict(zip("abc", full, strict=True)))).send()
    assert [rest is piece for _, _, rest in short] == [True] * 3


@pytest.mark.parametrize("what", ["add", "send", "finish"])
def test_without_memory_nothing_is_added_or_who_cannot_be_told_is_disconnected(what: str) -> None:
    pytest.importorskip("_testcapi", reason="this Python has no way to be short of memory at will")
    done = subprocess.run(
        [sys.executable, "-c", _SHORT_OF_MEMORY, what], check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "ok\n")


_SHORT_OF_MEMORY = """
import _testcapi, select, socket, sys
from runwire.stream.fanout._sockets import Batch, Sender, Socket

def without_memory(what, nth):
    _testcapi.set_nomemory(nth, nth + 1)
    try:
        what()
    except MemoryError:
        return True
    finally:
        _testcapi.remove_mem_hooks()

def pair():
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return ends

def many(pairs, count):
    return {n: Socket(pairs[n % len(pairs)][0].fileno()) for n in range(count)}

failed = 0
for nth in range(1, 40):
    pairs = [pair() for _ in range(8)]
    batch = Batch()
    if sys.argv[1] == "add":
        batch.add("fan-out", b"a", many(pairs, 128))  # as many as there is room for at once
        more = many(pairs, 200)
        if without_memory(lambda: batch.add("fan-out", b"b", more), nth):
            failed += 1
            assert len(batch) == 128
        else:
            assert len(batch) == 328
        added = len(batch) - 128
        assert batch.send() == []
        assert sorted(b"".join(far.recv(1000) for _, far in pairs)) == sorted(b"a" * 128 + b"b" * added)
    else:
        batch.add("fan-out", bytes(1_000_000), many(pairs, 8))
        if sys.argv[1] == "send":
            lost = without_memory(batch.send, nth)
        else:
            sender = Sender()
            sender.start(batch)
            assert select.select([sender], [], [], 10)[0]
            lost = without_memory(sender.finish, nth)
        if lost:
            failed += 1
            for _, far in pairs:
                while far.recv(1_000_000):  # the end comes behind what was taken
                    pass
assert failed >= 2, failed
print("ok")
"""


def test_a_batch_is_sent_once_and_by_one(pairs: Pairs, sender: Sender) -> None:
    near, far = pairs[0]
    clients = {"x": Socket(near.fileno())}
    sent, started = batch((b"a", clients)), batch((b"b", clients))
    sent.send()
    sender.start(started)
    for over in (sent, started):
        with pytest.raises(RuntimeError):
            over.send()
        with pytest.raises(RuntimeError):
            over.add("fan-out", b"c", clients)
        with pytest.raises(RuntimeError):
            sender.start(over)
    with pytest.raises(TypeError):
        sender.start([])  # type: ignore[arg-type]
    assert sender.finish() == []
    assert far.recv(100) == b"ab"


def test_a_socket_is_of_an_open_connection_and_has_a_descriptor_of_its_own(pairs: Pairs) -> None:
    (near, far), (other_near, other_far), _ = pairs
    kept = Socket(near.fileno())
    os.dup2(other_near.fileno(), near.fileno())  # the descriptor is somebody else's now
    assert batch((b"a", {"kept": kept}), (b"b", {"new": Socket(near.fileno())})).send() == []
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


def test_the_sender_has_room_for_as_many_batches_as_the_bound_on_buffers_assumes() -> None:
    assert JOBS == BATCHES_MAX


def test_threads_send_what_is_started_in_order_and_tell_of_each_in_turn(pairs: Pairs, sender: Sender) -> None:
    near, far = pairs[0]
    well, full = Socket(near.fileno()), Socket(pairs[1][0].fileno())
    assert sender.sent() == 0
    sender.start(batch((LARGE, {"full": full})))
    for n in range(1, JOBS):
        sender.start(batch((b"%d" % n, {"well": well}), (b"x", {"full": full})))
    with pytest.raises(RuntimeError):
        sender.start(batch())
    ((_, client, rest),) = sender.finish()
    assert client == "full"
    assert received(pairs[1][1]) <= len(LARGE) - len(rest)  # there is room, but nothing of what follows goes there
    for _ in range(1, JOBS):
        assert sender.finish() == [("fan-out", "full", b"x")]
    with pytest.raises(RuntimeError):
        sender.finish()
    assert far.recv(100) == b"123"[: JOBS - 1]
    assert sender.sent() == 0


def test_each_socket_gets_what_is_its_own_in_order_whichever_thread_is_ahead(sender: Sender) -> None:
    with ExitStack() as stack:
        pairs = [tuple(map(stack.enter_context, socket.socketpair())) for _ in range(7)]
        near = {str(n): Socket(pair[0].fileno()) for n, pair in enumerate(pairs)}
        under_way = 0
        for number in range(200):
            if under_way == JOBS:
                assert sender.finish() == []
                under_way -= 1
            some = dict(list(near.items())[number % 3 :])
            sender.start(batch((b"%d " % number, some)))
            under_way += 1
        for _ in range(under_way):
            assert sender.finish() == []
        for n, (_, far) in enumerate(pairs):
            assert far.recv(10_000).split() == [b"%d" % number for number in range(200) if n >= number % 3]


def test_threads_make_themselves_heard_when_all_of_it_is_sent(pairs: Pairs, sender: Sender) -> None:
    near, far = pairs[0]
    assert not select.select([sender], [], [], 0)[0]
    sender.start(batch((b"a", {"x": Socket(near.fileno())})))
    wait_for(sender)
    assert sender.sent() == 1
    assert not select.select([sender], [], [], 0)[0]
    assert sender.finish() == []
    assert far.recv(100) == b"a"


def test_what_is_being_sent_holds_on_to_its_socket_and_its_bytes(pairs: Pairs, sender: Sender) -> None:
    near, far = pairs[0]
    clients = {"x": Socket(near.fileno())}
    sender.start(batch((bytes([7]) * 1000, clients)))
    clients.clear()
    near.close()
    assert sender.finish() == []
    assert far.recv(2000) == bytes([7]) * 1000
    assert far.recv(1) == b""


def test_a_closed_sender_lets_go_of_everything_and_takes_nothing(pairs: Pairs) -> None:
    near, far = pairs[0]
    sender = Sender()
    sender.start(batch((b"a", {"x": Socket(near.fileno())})))
    near.close()
    sender.close()
    sender.close()
    with pytest.raises(RuntimeError):
        sender.start(batch())
    with pytest.raises(RuntimeError):
        sender.finish()
    assert sender.sent() == 0
    assert far.recv(100) in (b"a", b"")
    for _ in range(20):  # one that is forgotten ends its threads, too
        Sender()
    assert len(list(Path("/proc/self/task").iterdir())) < 20


def test_a_process_that_is_forked_has_no_threads_and_does_not_wait_for_them(sender: Sender) -> None:
    child = os.fork()
    if child == 0:
        sender.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    sender.start(batch())
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
        assert batch((b"a", {"client": out.socket})).send() == []
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
        batch((b"b", {"client": out.socket})).send()
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
