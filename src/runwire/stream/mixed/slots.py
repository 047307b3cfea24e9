"""The slots of the process's scheduler, for pieces with bytes of parts: their lag is another metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from runwire.content.part_metrics import PartMetrics
from runwire.stream.fanout import Deliveries, Queued, Scheduler
from runwire.stream.fanout.outlet import Socket
from runwire.stream.fanout.scheduler import Delivered
from runwire.stream.mixed.reader import BytesAt
from runwire.stream.piece import Times
from runwire.telemetry.metrics import StreamMetrics


class PartSlots:
    """As the scheduler, except that it counts what was delivered once for bytes and once for events."""

    def __init__(
        self, scheduler: Scheduler, *, metrics: StreamMetrics, parts: PartMetrics, now_us: Callable[[], int]
    ) -> None:
        self._scheduler = scheduler
        self._deliveries = Deliveries(metrics, now_us=now_us)
        self._now_us = now_us
        self._lag = parts.lag
        self._batch = 0
        self._delivered: list[Delivered] = []
        self.queue = scheduler.queue
        self.queue_empty = scheduler.queue_empty
        self.settled = scheduler.settled

    @property
    def ended(self) -> int:
        return self._scheduler.ended

    def add(self, fanout: Queued, piece: bytes, clients: dict[Any, Socket]) -> int:
        return self._scheduler.add(fanout, piece, clients)

    def deliver(self, times: Sequence[Times], *, clients: int) -> None:
        """Counts frames as delivered when the batch is over. All that one tick delivers is counted together."""
        if self._batch != self._scheduler.gathering:
            self._batch = self._scheduler.gathering
            self._delivered = []
            self._scheduler.when_sent(partial(self.tell, self._delivered))
        self._delivered.append((times, clients))

    def tell(self, delivered: Iterable[Delivered]) -> None:
        """Counts what has just been written."""
        events: list[Delivered] = []
        now_us = self._now_us()
        for times, clients in delivered:
            lags = [max(now_us - at, 0) / 1e6 for count, at in times if at and isinstance(at, BytesAt)]
            if lags:
                self._lag.observe_many(lags, times=clients)
            if len(lags) < len(times):
                events.append(([time for time in times if not isinstance(time[1], BytesAt)], clients))
        if events:
            self._deliveries.tell(events)
