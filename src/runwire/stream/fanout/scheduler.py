"""When each fan-out writes, and what a batch of writes has delivered. Shared by the fan-outs of a process.

Fan-outs with something to write stand in one queue. In each *tick* (pass of the event loop) the scheduler gives out a
number of *slots*, first come, first served; a fan-out that has not finished goes to the end of the queue. So a run that
thousands follow delays every other run by at most one tick, and events that are published meanwhile share the next
write to each client. The writes of one tick to sockets are one *batch*, which the sender sends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeAlias

from runwire.clock import wall_us
from runwire.stream.fanout.outlet import Batch, Socket
from runwire.stream.fanout.sender import Sender, Short
from runwire.stream.piece import Times
from runwire.telemetry.logs import LogEvent, get_logger
from runwire.telemetry.metrics import DeliveryPath, StreamMetrics

SLOTS_A_TICK: Final = 256
"""By threads. They are a little over a millisecond of work, in which the event loop is free."""
SLOTS_OF_THE_LOOP: Final = 64
"""By the event loop alone. They take it half a millisecond."""

Delivered: TypeAlias = tuple[Sequence[Times], int]
"""Events, and the number of clients they were written to."""

_log = get_logger()


class Queued(Protocol):
    """A fan-out in the queue."""

    run_id: str
    queued: bool
    """It has more to write, and stays in the queue."""

    def write(self, slots: int) -> int:
        """Writes to clients for as many slots and returns the slots it used."""


class Slots(Protocol):
    """The scheduler, as a fan-out sees it."""

    @property
    def ended(self) -> int:
        """The batches up to this number are over."""

    def queue(self, fanout: Queued) -> None: ...
    async def queue_empty(self) -> None: ...
    async def settled(self) -> None: ...
    def add(self, fanout: Any, piece: bytes, clients: dict[Any, Socket]) -> int: ...
    def deliver(self, times: Sequence[Times], *, clients: int) -> None: ...


class Deliveries:
    """Counts deliveries once per batch: observing each fan-out by itself would cost more than it counts."""

    def __init__(self, metrics: StreamMetrics, *, now_us: Callable[[], int] = wall_us) -> None:
        """`now_us`: the clock that the events' times are of."""
        self._lag = metrics.delivery_lag
        self._now_us = now_us
        self._delivered = metrics.events_delivered[DeliveryPath.LIVE]

    def tell(self, delivered: Iterable[Delivered]) -> None:
        """Counts what has just been written. The lag is that of the last write: most were sooner."""
        at: dict[int, int] = {}
        for times, clients in delivered:
            for count, ts_us in times:
                at[ts_us] = at.get(ts_us, 0) + count * clients
        now_us = self._now_us()
        lags: dict[int, list[float]] = {}
        for ts_us, deliveries in at.items():
            lags.setdefault(deliveries, []).append((now_us - ts_us) / 1_000_000)
        for deliveries, lags_s in lags.items():
            self._lag.observe_many(lags_s, times=deliveries)
        self._delivered.inc(sum(at.values()))


class _Job:
    """The sends of one tick, and what they will have delivered."""

    __slots__ = ("batch", "delivered", "over", "then")

    def __init__(self) -> None:
        self.batch = Batch() if Batch is not None else None
        self.delivered: list[Delivered] = []
        self.then: Callable[[], None] | None = None
        self.over: asyncio.Event | None = None


class Scheduler:
    """While the sender is full, fan-outs wait in the queue, and each writes more at once later."""

    def __init__(self, sender: Sender, deliveries: Deliveries, *, slots_a_tick: int | None = None) -> None:
        self.gathering = 1
        """The number of the batch that `add` adds to."""
        self.ended = 0
        """The batches up to this number are over."""
        self._sender = sender
        self._sender.on_room = self._plan
        self._deliveries = deliveries
        self._slots_a_tick = slots_a_tick or (SLOTS_A_TICK if sender.by_threads else SLOTS_OF_THE_LOOP)
        self._queue: deque[Queued] = deque()
        self._tick_due: asyncio.Handle | None = None
        self._emptied = asyncio.Event()
        self._job = _Job()
        self._last: _Job | None = None

    # ------------------------------------------------------------------ the queue

    def queue(self, fanout: Queued) -> None:
        """Gives a fan-out a position in the queue. It writes in a later tick, with what else this tick brings."""
        self._queue.append(fanout)
        self._plan()

    async def queue_empty(self) -> None:
        """Returns when no fan-out waits for a slot; the last batch may still be under way."""
        while self._queue:
            self._emptied.clear()
            await self._emptied.wait()

    async def settled(self) -> None:
        """Returns when every batch that was begun by now is with the sockets, or with the transports of full ones."""
        if (last := self._last) is not None:
            last.over = last.over or asyncio.Event()
            await last.over.wait()

    def close(self) -> None:
        """Ends the sender. Streams have ended before."""
        self._sender.close()

    def _plan(self) -> None:
        if self._tick_due is None and self._queue and not self._sender.full:
            self._tick_due = asyncio.get_running_loop().call_soon(self._tick)

    def _tick(self) -> None:
        self._tick_due = None
        queue, left = self._queue, self._slots_a_tick
        again: list[Queued] = []
        while queue and left > 0:
            fanout = queue.popleft()
            try:
                left -= max(fanout.write(left), 1)
            except Exception as error:  # noqa: BLE001  # a defect of one fan-out must not stop the others
                _log.error(LogEvent.TASK_FAILED, task="flush", run_id=fanout.run_id, exc_info=error)
                fanout.queued = False  # until there is more to write
            if fanout.queued:
                again.append(fanout)
        queue.extend(again)
        try:
            self.send()
        finally:
            self._plan()
            if not queue:
                self._emptied.set()

    # ------------------------------------------------------------------ the batch of a tick

    def add(self, fanout: Any, piece: bytes, clients: dict[Any, Socket]) -> int:
        """Adds a send to each client's socket, and returns the batch's number.

        A client gets at most one piece in a batch. Until the batch is over nobody else may write to the client.
        """
        assert self._job.batch is not None  # noqa: S101  # there is a Socket, so there is a Batch
        self._job.batch.add(fanout, piece, clients)
        return self.gathering

    def deliver(self, times: Sequence[Times], *, clients: int) -> None:
        """Counts events of these times as delivered to as many clients when the batch is over."""
        self._job.delivered.append((times, clients))

    def when_sent(self, then: Callable[[], None]) -> None:
        """Calls `then` when the batch is over. There is one for a batch."""
        self._job.then = then

    def send(self) -> None:
        """Hands the batch to the sender. The tick calls it."""
        job = self._job
        if not (job.batch or job.delivered or job.then):
            return
        self._job = _Job()
        self.gathering += 1
        self._last = job
        self._sender.send(job.batch, lambda short: self._end(job, short))

    def _end(self, job: _Job, short: Sequence[Short]) -> None:
        self.ended += 1
        if self._last is job:
            self._last = None
        try:
            for fanout, client, rest in short:
                fanout.fell_short(client, rest)
            if job.delivered:
                self._deliveries.tell(job.delivered)
            if job.then is not None:
                job.then()
        finally:
            if job.over is not None:
                job.over.set()
