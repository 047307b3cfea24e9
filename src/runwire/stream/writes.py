"""What goes to many clients: gathered for a turn of the event loop, then sent by one call, or by a thread meanwhile.

Most of what a delivery costs is the kernel's, and needs no Python. So what is much is handed to a thread, and the event
loop goes on: appends, publishing, and what is to be written next. Who does not take its piece as a whole is told, and
gets the rest and what follows by its transport.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from runwire.stream.deliveries import Delivered, Deliveries, Times
from runwire.stream.outlet import JOBS, Sender, Socket, send_each
from runwire.telemetry.logs import LogEvent, get_logger

FEW: Final = 16
"""So many writes are done sooner than a thread has been woken, and its answer heard."""

_log = get_logger()


class Written(Protocol):
    """Whose clients are written to."""

    def fell_short(self, client: Any, rest: bytes) -> None:
        """A client's socket did not take the rest of a piece."""


class _Batch:
    """Pieces, each for some clients, and what will have been delivered with them."""

    __slots__ = ("clients", "count", "delivered", "over", "pieces", "whose")

    def __init__(self) -> None:
        self.whose: list[Written] = []
        self.pieces: list[bytes] = []
        self.clients: list[dict[Any, Socket]] = []
        self.delivered: list[Delivered] = []
        self.count = 0
        self.over: asyncio.Event | None = None


class Writes:
    """Until what was added for a client is written nobody else may write to it: wait for `settled`."""

    def __init__(self, deliveries: Deliveries, *, few: int = FEW) -> None:
        """More than `few` writes at once are a thread's, where there are several processors."""
        self.on_room: Callable[[], None] = lambda: None
        """Called when it may be no longer `full`."""
        self._deliveries = deliveries
        self._few = few if Sender is not None and len(os.sched_getaffinity(0)) > 1 else None
        self._sender: Sender | None = None
        self.ended = 0
        """How many batches are over. They are numbered from 1 on."""
        self._gathered = _Batch()
        self._under_way: deque[_Batch] = deque()

    @property
    def by_thread(self) -> bool:
        """Whether what is much is a thread's."""
        return self._few is not None

    @property
    def under_way(self) -> int:
        """How many batches are being written, or wait for that."""
        return len(self._under_way)

    @property
    def full(self) -> bool:
        """Whether as much is under way as may be: what is new had better share its next write."""
        return self._sender is not None and self.under_way >= JOBS

    def add(self, whose: Written, piece: bytes, clients: dict[Any, Socket]) -> int:
        """Has it written to each client's socket, and gives the number of the batch, which keeps the dictionary.

        A client has one piece between two calls of `make`.
        """
        batch = self._gathered
        batch.whose.append(whose)
        batch.pieces.append(piece)
        batch.clients.append(clients)
        batch.count += len(clients)
        return self.ended + self.under_way + 1

    def deliver(self, times: Sequence[Times], *, clients: int) -> None:
        """With what was added, events of these times will have been written to so many clients."""
        self._gathered.delivered.append((times, clients))

    def make(self) -> None:
        """Has what was gathered written, now or as soon as the thread comes to it; not while it is `full`."""
        batch = self._gathered
        if not (batch.count or batch.delivered):
            return
        self._gathered = _Batch()
        if self._few is not None and (batch.count > self._few or self._under_way) and (sender := self._thread()):
            sender.start(batch.pieces, batch.clients)
            self._under_way.append(batch)
        else:
            self._end(batch, send_each(batch.pieces, batch.clients) if batch.count else ())

    def look(self) -> None:
        """Hears what the thread has done."""
        if self._sender is not None:
            try:
                for _ in range(self._sender.sent()):
                    if self._under_way:
                        self.finish()
            finally:
                self.on_room()

    def finish(self) -> None:
        """Waits for what was handed to the thread first; if somebody fell short, for all of it.

        For then what follows for them is still to go by their transports, and nothing must overtake it.
        """
        assert self._sender is not None  # noqa: S101  # something is under way
        short = self._sender.finish()
        try:
            self._end(self._under_way.popleft(), short)
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
        """Ends the thread. Streams have ended before."""
        if self._sender is not None:
            while self._under_way:
                self.finish()
            asyncio.get_running_loop().remove_reader(self._sender.fileno())
            self._sender.close()
            self._sender = self._few = None

    def _end(self, batch: _Batch, short: Sequence[tuple[int, Any, int]]) -> None:
        self.ended += 1
        try:
            for at, client, taken in short:
                batch.whose[at].fell_short(client, batch.pieces[at][taken:])
            if batch.delivered:
                self._deliveries.tell(batch.delivered)
        finally:
            if batch.over is not None:
                batch.over.set()

    def _thread(self) -> Sender | None:
        if self._sender is None:
            try:
                self._sender = Sender()
            except OSError as error:
                _log.warning(LogEvent.TASK_FAILED, task="thread for writes", error_type=type(error).__name__)
                self._few = None
            else:
                self._listen(self._sender)
        return self._sender

    def _listen(self, sender: Sender) -> None:
        asyncio.get_running_loop().add_reader(sender.fileno(), self.look)
