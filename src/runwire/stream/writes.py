"""What goes to many clients: gathered for a turn of the event loop, then sent by one call, or by threads meanwhile.

Most of what a delivery costs is the kernel's, and needs no Python. So what is much is handed to threads, and the event
loop goes on: appends, publishing, and what is to be written next. Who does not take its piece as a whole is told, and
gets the rest and what follows by its transport.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias

from runwire.stream.deliveries import Delivered, Deliveries, Times
from runwire.stream.outlet import JOBS, Batch, Sender, Socket
from runwire.telemetry.logs import LogEvent, get_logger

FEW: Final = 16
"""So many writes are done sooner than a thread has been woken, and its answer heard."""

_log = get_logger()


class Written(Protocol):
    """Whose clients are written to."""

    def fell_short(self, client: Any, rest: bytes) -> None:
        """A client's socket did not take the rest of a piece."""


Short: TypeAlias = tuple[Written, Any, bytes]
"""Whose client did not take which rest of a piece."""


class _Gathered:
    """What is written in one go, and what will have been delivered with it."""

    __slots__ = ("batch", "delivered", "over")

    def __init__(self) -> None:
        self.batch = Batch() if Batch is not None else None
        self.delivered: list[Delivered] = []
        self.over: asyncio.Event | None = None


class Writes:
    """Until what was added for a client is written nobody else may write to it: wait for `settled`."""

    def __init__(self, deliveries: Deliveries, *, few: int = FEW) -> None:
        """More than `few` writes at once are for threads, where there are several processors."""
        self.on_room: Callable[[], None] = lambda: None
        """Called when it may be no longer `full`."""
        self.full = False
        """As much is under way as may be: what is new had better share its next write."""
        self.gathering = 1
        """The number of the batch that `add` adds to."""
        self.ended = 0
        """How many batches are over: those up to this number."""
        self._deliveries = deliveries
        self._few = few if Sender is not None and len(os.sched_getaffinity(0)) > 1 else None
        self._sender: Sender | None = None
        self._gathered = _Gathered()
        self._under_way: deque[_Gathered] = deque()

    @property
    def by_threads(self) -> bool:
        """Whether what is much is written by threads."""
        return self._few is not None

    @property
    def under_way(self) -> int:
        """How many batches are being written, or wait for that."""
        return len(self._under_way)

    def add(self, whose: Written, piece: bytes, clients: dict[Any, Socket]) -> None:
        """Has it written to each client's socket.

        A client has one piece between two calls of `make`.
        """
        assert self._gathered.batch is not None  # noqa: S101  # there is a Socket
        self._gathered.batch.add(whose, piece, clients)

    def deliver(self, times: Sequence[Times], *, clients: int) -> None:
        """With what was added, events of these times will have been written to so many clients."""
        self._gathered.delivered.append((times, clients))

    def make(self) -> None:
        """Has what was gathered written, now or as soon as a thread comes to it; not while it is `full`."""
        gathered, batch = self._gathered, self._gathered.batch
        if not (batch or gathered.delivered):
            return
        self._gathered = _Gathered()
        self.gathering += 1
        if (
            batch is not None
            and self._few is not None
            and (len(batch) > self._few or self._under_way)
            and (sender := self._threads())
        ):
            sender.start(batch)
            self._under_way.append(gathered)
            self.full = len(self._under_way) >= JOBS
            return
        short: Sequence[Short] = ()
        try:
            short = batch.send() if batch else ()
        finally:
            self._end(gathered, short)

    def look(self) -> None:
        """Hears what the threads have done."""
        if self._sender is not None:
            try:
                for _ in range(self._sender.sent()):
                    if self._under_way:
                        self.finish()
            except Exception:
                asyncio.get_running_loop().call_soon(self.look)  # what else is done is no worse for that
                raise
            finally:
                self.on_room()

    def finish(self) -> None:
        """Waits for what was handed to threads first; if somebody fell short, for all of it.

        For then what follows for them is still to go by their transports, and nothing must overtake it.
        """
        assert self._sender is not None  # noqa: S101  # something is under way
        gathered = self._under_way.popleft()
        self.full = False
        short: Sequence[Short] = ()
        try:
            short = self._sender.finish()
        finally:
            try:
                self._end(gathered, short)
            finally:
                while short and self._under_way:
                    self.finish()

    async def settled(self) -> None:
        """Returns when all that was added by now is with the sockets, or with the transports of those that are full."""
        if self._under_way:
            last = self._under_way[-1]
            last.over = last.over or asyncio.Event()
            await last.over.wait()

    def close(self) -> None:
        """Ends the threads. Streams have ended before."""
        if self._sender is not None:
            while self._under_way:
                self.finish()
            asyncio.get_running_loop().remove_reader(self._sender.fileno())
            self._sender.close()
            self._sender = self._few = None

    def _end(self, gathered: _Gathered, short: Sequence[Short]) -> None:
        self.ended += 1
        try:
            for whose, client, rest in short:
                whose.fell_short(client, rest)
            if gathered.delivered:
                self._deliveries.tell(gathered.delivered)
        finally:
            if gathered.over is not None:
                gathered.over.set()

    def _threads(self) -> Sender | None:
        if self._sender is None:
            try:
                sender = Sender()
                self._listen(sender)
            except Exception as error:  # noqa: BLE001  # whatever is missing, everything can be written without them
                _log.warning(LogEvent.TASK_FAILED, task="threads for writes", error_type=type(error).__name__)
                self._few = None
            else:
                self._sender = sender
        return self._sender

    def _listen(self, sender: Sender) -> None:
        asyncio.get_running_loop().add_reader(sender.fileno(), self.look)
