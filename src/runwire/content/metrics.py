"""Metrics of content: what was stored, what the store did not do, and what nobody refers to."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from prometheus_client import Counter, Gauge

from runwire.errors import counted_by
from runwire.telemetry.exposition import Exposition


class StoreFailure(StrEnum):
    """Operations that the content store failed. `verify`: it gave back other bytes than were put there."""

    PUT = "put"
    VERIFY = "verify"
    READ = "read"
    DELETE = "delete"


class Collected(StrEnum):
    """Kinds of what the collector removed: bytes without an artifact, uploads left behind, artifacts past their time,
    and bytes of parts past theirs.
    """

    BLOB = "blob"
    UPLOAD = "upload"
    EXPIRED = "expired"
    PART = "part"


class ContentMetrics:
    """The group of every process that stores, serves or collects content."""

    def __init__(self, out: Exposition) -> None:
        self.artifacts: Counter = out.counter("artifacts_stored", "Artifacts stored.", unit="artifacts")
        self.bytes: Counter = out.counter("artifact_bytes", "Bytes of the artifacts stored.", unit="bytes")
        self.store_failures: Mapping[str, Counter] = out.counters(
            "artifact_store_failures",
            "Operations that the content store failed; `verify`: it had other bytes than were put there.",
            unit="failures",
            operation=StoreFailure,
        )
        self.refused: Mapping[str, Counter] = out.counters(
            "artifacts_refused",
            "Artifacts refused for a limit, by the `code` the caller got.",
            unit="artifacts",
            reason=counted_by("artifacts_refused"),
        )
        self.erased: Counter = out.counter("artifacts_erased", "Artifacts erased on request.", unit="artifacts")
        self.collected: Mapping[str, Counter] = out.counters(
            "content_collected",
            "Removed by the collector: bytes without an artifact, uploads left behind, and past `content_keep_days` "
            "artifacts (`expired`) and the bytes of parts without one.",
            unit="objects",
            kind=Collected,
        )
        self.orphans: Gauge = out.gauge(
            "content_orphans",
            "Objects that no artifact refers to, past their grace, as of the collector's last step.",
            unit="objects",
        )
