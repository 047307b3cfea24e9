"""Metrics of a process among the others of its deployment: its roles, its clock, and whether it hears them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import Counter, Gauge

from runwire.duties import Role
from runwire.telemetry.exposition import Exposition


class PlaceMetrics:
    """The group of every process."""

    def __init__(
        self, out: Exposition, *, roles: Iterable[Role] = tuple(Role), clock_known: Callable[[], bool] = lambda: True
    ) -> None:
        """`roles`: those of this process. `clock_known`: whether PostgreSQL's clock has been read."""
        for info in out.gauges("role_info", "Always 1; the label is a role of this process.", role=roles).values():
            info.set(1)
        self.ready: Gauge = out.gauge(
            "ready",
            "1 while the process does not drain and no duty that callers wait for fails; else 0, as /readyz says.",
        )
        self.clock_offset: Gauge = out.gauge(
            "clock_offset_seconds",
            "How far this machine's clock is ahead of PostgreSQL's; negative: behind. Lags do not depend on it.",
            known=clock_known,
        )
        self.clock_offset_bound: Gauge = out.gauge(
            "clock_offset_bound_seconds",
            "How far runwire_clock_offset_seconds may be wrong: half of the round trip to PostgreSQL, and drift.",
            known=clock_known,
        )
        self.listeners_deaf: Counter = out.counter(
            "listeners_deaf",
            "Connections that were open and heard no notification of this process's own. They are opened again.",
            unit="connections",
        )
