"""What hubs have written to their followers, counted once per batch of writes, however many hubs are in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from runwire.clock import wall_us
from runwire.telemetry.metrics import DeliveryPath, StreamMetrics

Times: TypeAlias = tuple[int, int]
"""So many events in a row, and when they were committed (epoch us)."""
Delivered: TypeAlias = tuple[Sequence[Times], int]
"""Events, and to how many clients they were written."""


class Deliveries:
    """Shared by the hubs of a process: observing each of their flushes by itself costs more than it counts."""

    def __init__(self, metrics: StreamMetrics) -> None:
        self._lag = metrics.delivery_lag
        self._delivered = metrics.events_delivered[DeliveryPath.LIVE]

    def tell(self, delivered: Iterable[Delivered]) -> None:
        """Counts what has just been written. It follows the last write, so it is no flattery: most were sooner."""
        at: dict[int, int] = {}
        for times, clients in delivered:
            for count, ts_us in times:
                at[ts_us] = at.get(ts_us, 0) + count * clients
        now_us = wall_us()
        lags: dict[int, list[float]] = {}
        for ts_us, deliveries in at.items():
            lags.setdefault(deliveries, []).append((now_us - ts_us) / 1_000_000)
        for deliveries, lags_s in lags.items():
            self._lag.observe_many(lags_s, times=deliveries)
        self._delivered.inc(sum(at.values()))


def split(times: Sequence[Times], count: int) -> tuple[list[Times], list[Times]]:
    """The times of the first `count` events, and of the rest."""
    first: list[Times] = []
    for n, (many, ts_us) in enumerate(times):
        if many >= count:
            first.append((count, ts_us))
            return first, [*([(many - count, ts_us)] if many > count else []), *times[n + 1 :]]
        first.append((many, ts_us))
        count -= many
    return first, []
