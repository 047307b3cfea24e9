"""Writes lines to a descriptor whose reader may hang: the caller never waits and never fails.

Threads. Any thread calls `write` and `drain`; both are safe in a signal handler and in a finaliser, since the guard is
re-entrant. One thread of the writer's own, a daemon that the first line starts, calls write(2). It is

    idle       the queue is empty; the next line wakes it
    writing    a batch goes out, under a lock that other processes on the same file take, too
    lingering  for `LINGER_S` after a batch, so that a burst costs one wake-up and not one a line

A reader that hangs leaves the thread in write(2) and the queue full; further lines are dropped and counted.
"""

from __future__ import annotations

import fcntl
import io
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

QUEUE_BYTES: Final = 4 * 1024 * 1024
"""Most bytes that wait, including those being written: some 15,000 lines."""
BATCH_BYTES: Final = 64 * 1024
LINGER_S: Final = 0.005
DRAIN_S: Final = 1.0
"""Longest wait in seconds for a hanging reader when the process ends."""


class LineWriter(io.BufferedIOBase):
    """Writes what it is given to the descriptor, in the order of the calls, from a thread of its own.

    A line that finds the queue full, or that the descriptor refuses (EPIPE, ENOSPC, EIO...), is dropped, and `dropped`
    called for it, from any thread. The next line that is taken comes after what `gap` says of the lines lost before it.
    Lines of several processes on one pipe stay whole, however long they are.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        dropped: Callable[[], object],
        gap: Callable[[int], bytes] = lambda _lost: b"",
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self.gap = gap
        self._descriptor = descriptor
        self._dropped = dropped
        self._queue_bytes = queue_bytes
        self._lost = 0
        self._torn = False
        self._direct = False
        self._start_anew()
        os.register_at_fork(after_in_child=self._in_forked_child)

    def _start_anew(self) -> None:
        self._guard = threading.RLock()
        self._wake = threading.Semaphore(0)
        self._queue: list[bytes | threading.Event] = []
        self._bytes = 0
        self._idle = True
        self._thread: threading.Thread | None = None

    def write(self, line: ReadableBuffer, /) -> int:
        """Takes a line, its newline included, and returns at once, whether or not there was room for it."""
        data = bytes(line)
        with self._guard:
            if self._bytes + len(data) <= self._queue_bytes:
                if self._lost:
                    lost, self._lost = self._lost, 0
                    data = self.gap(lost) + data
                self._bytes += len(data)
                self._queue.append(data)
                if self._idle:
                    self._begin()
                return len(data)
        self._lose()
        return len(data)

    def drain(self, within_s: float = DRAIN_S) -> bool:
        """Whether every line taken before the call was written or given up within the time."""
        written = threading.Event()
        with self._guard:
            if self._idle:
                return True
            self._queue.append(written)
        return written.wait(within_s)

    @property
    def name(self) -> int:
        return self._descriptor

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def _lose(self) -> None:
        self._lost += 1
        self._dropped()

    def _begin(self) -> None:
        """Wakes the thread to write the queue. Called with the guard held."""
        if self._direct:
            self._write_queue()
            return
        self._idle = False
        if self._thread is None:
            # A daemon: a write that never returns must not keep the process from ending.
            self._thread = threading.Thread(target=self._work, name="runwire-lines", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the interpreter is ending and starts no more threads, or the system has no more
                self._thread = None
                self._write_queue()
                self._idle = True
                return
        self._wake.release()

    def _in_forked_child(self) -> None:
        """The child has no thread of the writer, and the queue is its parent's: it writes for itself, at once."""
        self._start_anew()
        self._direct = True

    # ------------------------------------------------------------------ the writer's thread

    def _work(self) -> None:
        while True:
            self._wake.acquire()
            while self._write_queue():
                time.sleep(LINGER_S)

    def _write_queue(self) -> bool:
        """Writes all waiting lines. Returns False, and is idle from then on, when there are none."""
        with self._guard:
            taken, self._queue = self._queue, []
            if not taken:
                self._idle = True
                return False
        batch: list[bytes] = []
        size = 0
        for entry in taken:
            if isinstance(entry, threading.Event) or size + len(entry) > BATCH_BYTES:
                self._write_batch(batch)
                batch, size = [], 0
            if isinstance(entry, threading.Event):
                entry.set()
            else:
                batch.append(entry)
                size += len(entry)
        self._write_batch(batch)
        return True

    def _write_batch(self, lines: list[bytes]) -> None:
        if not lines:
            return
        rest = b"".join([b"\n", *lines] if self._torn else lines)  # the newline that a torn line still owes
        try:
            with self._undisturbed():
                while rest:
                    rest = rest[self._write_some(rest) :]
            self._torn = False
        except OSError:
            left = len(rest)
            for line in reversed(lines):  # from the last one back, those that did not go out whole
                if left <= 0:
                    break
                left -= len(line)
                self._lose()
            # Below 0, part of the last one lost has been written; above, not even the newline that was owed.
            self._torn = left != 0
        with self._guard:
            self._bytes -= sum(map(len, lines))

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Locks out our other processes: beyond PIPE_BUF, a pipe mixes the output of two writers."""
        with suppress(OSError):  # a file of a kind that has no locks
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _write_some(self, data: bytes) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # a process that shares the file has made it non-blocking
            ready = select.poll()
            ready.register(self._descriptor, select.POLLOUT)
            ready.poll()
            return 0
