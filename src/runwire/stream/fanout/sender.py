"""Sends batches to sockets: by threads of C code, or by the event loop.

Thread ownership, as in `_sockets.c`:

    event loop's thread   calls everything in this module; fills, starts and ends batches; writes to transports

    sender threads        send to the sockets of their lane, batch after batch; touch no Python object

From the start of a batch until the event loop has heard that it is over, the sender threads own the writing side of its
sockets. Nobody else may write to these sockets or to their transports.

Most of a delivery's cost is the kernel's, and needs no Python. So threads send large batches while the event loop goes
on to append, publish and prepare the next batch. A socket that does not take its piece as a whole is reported: its
client's transport sends the remainder and everything after it.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final, Protocol, TypeAlias

from runwire.stream.fanout.outlet import Batch, NativeSender
from runwire.stream.limits import BATCHES_MAX
from runwire.telemetry.logs import LogEvent, get_logger

FEW: Final = 16
"""As many sends are done before a thread is awake and its answer is heard."""

Short: TypeAlias = tuple[Any, Any, bytes]
"""A fan-out, its client that did not take a piece as a whole, and the rest of the piece."""
Over: TypeAlias = Callable[[Sequence[Short]], None]
"""Called when a batch is over, in the order in which batches were sent."""
Listen: TypeAlias = Callable[[int, Callable[[], None]], None]
"""Has a function called whenever a descriptor is readable."""

_log = get_logger()


class Sender(Protocol):
    """Sends batches in the order they come."""

    on_room: Callable[[], None]
    """Called when the sender may be no longer `full`."""

    @property
    def by_threads(self) -> bool:
        """Large batches do not hold up the event loop."""

    @property
    def full(self) -> bool:
        """BATCHES_MAX batches are under way. Send none now."""

    @property
    def under_way(self) -> int:
        """Batches that are not over."""

    def send(self, batch: Batch | None, over: Over) -> None:
        """Sends the batch now or soon; without one, `over` keeps its place in the order."""

    def close(self) -> None:
        """Waits for what is under way."""


def open_sender() -> Sender:
    """The sender for this machine: threads where there are several processors and the C code is compiled."""
    if NativeSender is not None and len(os.sched_getaffinity(0)) > 1:
        return ThreadSender()
    return LoopSender()


class LoopSender:
    """Sends every batch at once, by the event loop."""

    by_threads = False
    full = False
    under_way = 0

    def __init__(self) -> None:
        self.on_room: Callable[[], None] = _nothing

    def send(self, batch: Batch | None, over: Over) -> None:
        _send_now(batch, over)

    def close(self) -> None:
        pass


class ThreadSender:
    """Sends large batches by threads, and small ones at once unless something is under way before them."""

    by_threads = True

    def __init__(self, *, few: int = FEW, listen: Listen | None = None) -> None:
        """A batch of at most `few` sends is small. `listen` is the running loop's `add_reader` unless given.

        The threads start with the first large batch. Where they cannot start, the event loop sends everything.
        """
        self.on_room: Callable[[], None] = _nothing
        self.full = False
        self._few: float = few
        self._listen = listen
        self._native: NativeSender | None = None
        self._under_way: deque[Over] = deque()

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def send(self, batch: Batch | None, over: Over) -> None:
        if batch is not None and (len(batch) > self._few or self._under_way) and (native := self._started()):
            native.start(batch)
            self._under_way.append(over)
            self.full = len(self._under_way) >= BATCHES_MAX
        else:
            _send_now(batch, over)

    def look(self) -> None:
        """Hears which batches the threads have finished."""
        if self._native is None:
            return
        try:
            for _ in range(self._native.sent()):
                if self._under_way:
                    self.finish()
        except Exception:
            asyncio.get_running_loop().call_soon(self.look)  # other batches that are done have to be heard of, too
            raise
        finally:
            self.on_room()

    def finish(self) -> None:
        """Waits for the oldest batch under way; when a client fell short in it, for all of them.

        The later batches may have more for that client. It has to be with its transport before anything else is.
        """
        assert self._native is not None  # noqa: S101  # something is under way
        over = self._under_way.popleft()
        self.full = False
        short: Sequence[Short] = ()
        try:
            short = self._native.finish()
        finally:
            try:
                over(short)
            finally:
                while short and self._under_way:
                    self.finish()

    def close(self) -> None:
        """Ends the threads; from here on the event loop sends everything."""
        native = self._native
        if native is not None:
            while self._under_way:
                self.finish()
            if self._listen is None:
                asyncio.get_running_loop().remove_reader(native.fileno())
            native.close()
            self._native, self._few = None, inf

    def _started(self) -> NativeSender | None:
        if self._native is None:
            try:
                native = NativeSender()
                listen = self._listen or asyncio.get_running_loop().add_reader
                listen(native.fileno(), self.look)
            except Exception as error:  # noqa: BLE001  # whatever is missing, the event loop can send
                _log.warning(LogEvent.TASK_FAILED, task="threads for writes", error_type=type(error).__name__)
                self._few = inf
            else:
                self._native = native
        return self._native


def _send_now(batch: Batch | None, over: Over) -> None:
    short: Sequence[Short] = ()
    try:
        short = batch.send() if batch else ()
    finally:
        over(short)


def _nothing() -> None:
    pass
