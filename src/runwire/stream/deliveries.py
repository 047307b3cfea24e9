"""What hubs have written to their followers, counted once per turn of the event loop, however many hubs wrote in it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from runwire.clock import wall_us
from runwire.telemetry.metrics import DeliveryPath, StreamMetrics


class Deliveries:
    """Shared by the hubs of a process: observing each of their flushes by itself costs more than it counts."""

    def __init__(self, metrics: StreamMetrics) -> None:
        self._lag = metrics.delivery_lag
        self._delivered = metrics.events_delivered[DeliveryPath.LIVE]
        self._written: list[tuple[Sequence[int], int]] = []

    def add(self, ts_us: Sequence[int], *, clients: int) -> None:
        """Events with these commit times (epoch us) were written to so many clients just now."""
        if not self._written:
            asyncio.get_running_loop().call_soon(self.tell)
        self._written.append((ts_us, clients))

    def tell(self) -> None:
        """One step: counts what was added. It follows the last write, so it is no flattery: most were sooner."""
        now_us = wall_us()
        written, self._written = self._written, []
        by_clients: dict[int, list[float]] = {}
        for ts_us, clients in written:
            by_clients.setdefault(clients, []).extend([(now_us - ts) / 1_000_000 for ts in ts_us])
        for clients, lags in by_clients.items():
            self._lag.observe_many(lags, times=clients)
        self._delivered.inc(sum(clients * len(lags) for clients, lags in by_clients.items()))
