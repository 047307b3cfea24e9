"""What hubs have written to their followers, counted once per batch of writes, however many hubs are in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from runwire.clock import wall_us
from runwire.telemetry.metrics import DeliveryPath, StreamMetrics

Delivered: TypeAlias = tuple[Sequence[int], int]
"""The commit times (epoch us) of events, and to how many clients they were written."""


class Deliveries:
    """Shared by the hubs of a process: observing each of their flushes by itself costs more than it counts."""

    def __init__(self, metrics: StreamMetrics) -> None:
        self._lag = metrics.delivery_lag
        self._delivered = metrics.events_delivered[DeliveryPath.LIVE]

    def tell(self, delivered: Iterable[Delivered]) -> None:
        """Counts what has just been written. It follows the last write, so it is no flattery: most were sooner."""
        by_clients: dict[int, list[int]] = {}
        for ts_us, clients in delivered:
            by_clients.setdefault(clients, []).extend(ts_us)
        if by_clients:
            now_us = wall_us()
            for clients, all_ts_us in by_clients.items():
                self._lag.observe_many([(now_us - ts) / 1_000_000 for ts in all_ts_us], times=clients)
            self._delivered.inc(sum(clients * len(all_ts_us) for clients, all_ts_us in by_clients.items()))
