"""Metrics of the archive. The observer reports how long runs wait for it, since a dead archiver cannot."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from prometheus_client import Counter, Gauge

from runwire.telemetry.exposition import Exposition


class Outcome(StrEnum):
    """Results of archiving, by run. `refused`: their log is not whole, so they stay in PostgreSQL."""

    ARCHIVED = "archived"
    DROPPED = "dropped"
    REFUSED = "refused"


class Failure(StrEnum):
    """Why the archiver, a read or an audit of the archive failed."""

    STORE = "store"
    DATABASE = "database"
    CORRUPT = "corrupt"
    MISSING = "missing"
    LOCKED = "locked"
    BROKEN_LOG = "broken_log"


class ArchiveMetrics:
    """The group of every process that writes or reads the archive."""

    def __init__(self, out: Exposition) -> None:
        self.after: Gauge = out.gauge(
            "archive_after_seconds", "Time between a run's end and its archiving, as set; 0 where nothing is archived."
        )
        self.runs: Mapping[str, Counter] = out.counters(
            "archive_runs",
            "Runs moved, by outcome; `refused`: the run's log has a fault, and the run stays in PostgreSQL.",
            unit="runs",
            outcome=Outcome,
        )
        self.bytes: Counter = out.counter(
            "archive_bytes", "Bytes in cold storage that were read back and proven.", unit="bytes"
        )
        self.failures: Mapping[str, Counter] = out.counters(
            "archive_failures",
            "Steps of the archiver, reads and audits of the archive that failed.",
            unit="failures",
            reason=Failure,
        )
