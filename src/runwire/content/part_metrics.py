"""Metrics of parts: of the process that writes them, and of the one that shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import Counter, Gauge

from runwire.content.part import PartState
from runwire.telemetry.exposition import Exposition
from runwire.telemetry.histogram import Histogram

PART_LAG_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0)
"""The limits of the alerts on part lag are edges."""
_ENDS: Final = (PartState.SEALED, PartState.ABANDONED)


class PartMetrics:
    """The group of every process: one writes parts, another shows them."""

    def __init__(self, out: Exposition) -> None:
        self.open: Gauge = out.gauge("parts_open", "Parts that this process writes to.", unit="parts")
        self.bytes: Counter = out.counter("part_bytes", "Bytes of parts that were stored.", unit="bytes")
        self.ended: Mapping[str, Counter] = out.counters(
            "parts_ended", "Attempts of parts that ended.", unit="parts", outcome=_ENDS
        )
        self.lag: Histogram = out.histogram(
            "part_lag_seconds",
            "From the commit of a part's bytes to their writing to a client.",
            unit="seconds",
            edges=PART_LAG_BUCKETS_S,
        )
