"""Output never holds its process up: whatever the reader does, the caller goes on, and what is lost is counted."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire.telemetry.line_writer import LineWriter

WITHIN_S = 10.0
LONG = 20_000  # bytes of a line, several times PIPE_BUF


class Pipe:
    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 4096)

    def read_until(self, last: bytes) -> list[bytes]:
        """Everything that comes, up to the line `last`."""
        came = b""
        while not came.endswith(last + b"\n"):
            came += os.read(self.reading, 65_536)
        return came.splitlines()

    def stop_reading(self) -> None:
        os.close(self.reading)
        self.reading = -1

    def close(self) -> None:
        for descriptor in (self.reading, self.writing):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    if pipe.reading >= 0:
        pipe.stop_reading()  # wakes a writer that waits for room
    os.close(pipe.writing)


class Count:
    def __init__(self) -> None:
        self.value = 0

    def __call__(self) -> None:
        self.value += 1


def filled(writer: LineWriter, dropped: Count) -> int:
    """Writes numbered lines until one is dropped; the number of those taken."""
    taken = 0
    while dropped.value == 0:
        writer.write(b"%d\n" % taken)
        taken += 1
    return taken - 1


def test_a_reader_that_stands_still_holds_nobody_up_and_finds_the_oldest_lines_in_order(pipe: Pipe) -> None:
    dropped = Count()
    writer = LineWriter(pipe.writing, dropped=dropped, queue_bytes=50_000)
    taken = filled(writer, dropped)
    assert not writer.drain(0.0)
    reading = threading.Thread(target=writer.drain, args=(WITHIN_S,))
    came: list[bytes] = []
    reader = threading.Thread(target=lambda: came.extend(pipe.read_until(b"%d" % (taken - 1))))
    reading.start()
    reader.start()
    reader.join(WITHIN_S)
    reading.join(WITHIN_S)
    assert came == [b"%d" % number for number in range(taken)]


def test_the_first_line_after_a_gap_follows_one_that_says_how_many_are_lost(pipe: Pipe) -> None:
    dropped = Count()
    writer = LineWriter(pipe.writing, dropped=dropped, gap=lambda lost: b"lost %d\n" % lost, queue_bytes=50_000)
    taken = filled(writer, dropped)
    writer.write(b"lost, too\n")
    pipe.read_until(b"%d" % (taken - 1))
    assert writer.drain(WITHIN_S)
    writer.write(b"again\n")
    assert pipe.read_until(b"again") == [b"lost 2", b"again"]


def test_what_nobody_reads_any_more_is_counted_line_by_line(pipe: Pipe) -> None:
    dropped = Count()
    writer = LineWriter(pipe.writing, dropped=dropped)
    pipe.stop_reading()
    for _ in range(3):
        writer.write(b"line\n")
        assert writer.drain(WITHIN_S)
    assert dropped.value == 3


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    dropped = Count()
    with Path("/dev/full").open("wb", buffering=0) as full:
        writer = LineWriter(full.fileno(), dropped=dropped)
        writer.write(b"one\ntwo\n")
        assert writer.drain(WITHIN_S)
    assert dropped.value == 1


def test_a_line_torn_by_a_full_disk_does_not_spoil_the_next(tmp_path: Path) -> None:
    script = f"""
import resource, signal
from runwire.telemetry.line_writer import LineWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
lost = []
with open({str(tmp_path / "log")!r}, "wb", buffering=0) as file:
    writer = LineWriter(file.fileno(), dropped=lambda: lost.append(1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, resource.RLIM_INFINITY))
    writer.write(b"whole\\n"); writer.write(b"torn\\n"); writer.write(b"missing\\n"); writer.drain()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    writer.write(b"next\\n"); writer.drain()
print(len(lost))
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout == "2\n"
    assert (tmp_path / "log").read_bytes() == b"whole\nto\nnext\n"


def test_a_pipe_that_somebody_made_non_blocking_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.writing, False)
    dropped = Count()
    writer = LineWriter(pipe.writing, dropped=dropped)
    lines = [b"%d" % number for number in range(5_000)]
    for line in lines:
        writer.write(line + b"\n")
    assert pipe.read_until(lines[-1]) == lines
    assert dropped.value == 0


def test_long_lines_of_several_processes_stay_whole(pipe: Pipe) -> None:
    script = f"""
import sys
from runwire.telemetry.line_writer import LineWriter
writer = LineWriter(1, dropped=lambda: sys.exit("dropped"))
for _ in range(50):
    writer.write(sys.argv[1].encode() * {LONG} + b"\\n")
    writer.write(sys.argv[1].encode() + b"\\n")
assert writer.drain(60)
"""
    writers = [subprocess.Popen([sys.executable, "-c", script, letter], stdout=pipe.writing) for letter in "abc"]
    came = b""
    while came.count(b"\n") < 3 * 100:
        came += os.read(pipe.reading, 65_536)
    assert [process.wait(WITHIN_S) for process in writers] == [0, 0, 0]
    whole = {letter * length for letter in (b"a", b"b", b"c") for length in (1, LONG)}
    assert set(came.splitlines()) == whole


def test_a_forked_child_writes_for_itself(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writing, dropped=Count())
    writer.write(b"parent\n")
    assert writer.drain(WITHIN_S)
    child = os.fork()
    if child == 0:
        writer.write(b"child\n")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert pipe.read_until(b"child") == [b"parent", b"child"]


def test_a_line_written_in_the_middle_of_another_write_waits_for_nothing(pipe: Pipe) -> None:
    """As a finaliser or a signal handler does, which may run at any point of `write`."""
    dropped = Count()

    def gap(_lost: int) -> bytes:
        writer.write(b"inner\n")
        return b""

    writer = LineWriter(pipe.writing, dropped=dropped, gap=gap, queue_bytes=100)
    writer.write(b"x" * 101)
    assert dropped.value == 1
    writer.write(b"outer\n")
    assert set(pipe.read_until(b"outer")) >= {b"outer"}
    assert writer.drain(WITHIN_S)
