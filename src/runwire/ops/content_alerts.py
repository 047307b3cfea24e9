"""Alerts on what users see of runs beside their events: parts, artifacts, and runs that rest until a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from runwire.ops.pipeline_alerts import PART_LAG
from runwire.ops.rules import Alert, Group, above, in_window, limit
from runwire.ops.thresholds import Severity, Thresholds

CRITICAL, PAGE = Severity.CRITICAL, Severity.PAGE
_PART_LAG_COUNT: Final = "runwire_part_lag_seconds_count"


def content_alerts(thresholds: Thresholds) -> Group:
    return Group("runwire-content", (*_part_lag(thresholds), _store(thresholds), _timers(thresholds)))


def _part_lag(thresholds: Thresholds) -> Iterator[Alert]:
    worded = {
        CRITICAL: "Bytes of parts reach their readers late",
        PAGE: "Answers reach their readers so late that everybody notices",
    }
    for severity, summary in worded.items():
        window = thresholds.window("part_lag", severity)
        fewest = thresholds.at_least("part_lag", severity) or 0
        observed = in_window(_observed, window, thresholds)
        yield Alert(
            f"PartLag{severity.value.capitalize()}",
            above(f"{PART_LAG}{window}", thresholds, "part_lag", severity) + f"\nand\n({observed}) >= {fewest:.10g}",
            severity,
            summary,
            "The p95 from the commit of a part's bytes to a client is {{ $value | humanizeDuration }} in"
            f" {{{{ $labels.job }}}} (limit {limit(thresholds, 'part_lag', severity)}).",
            thresholds.level("part_lag", severity).for_,
        )


def _observed(window: str) -> str:
    return f"sum by (job) (increase({_PART_LAG_COUNT}[{window}]))"


def _store(thresholds: Thresholds) -> Alert:
    window = thresholds.duration(thresholds.window("artifact_store", CRITICAL))
    failures = f"sum by (job, operation) (increase(runwire_artifact_store_failures_total[{window}]))"
    return Alert(
        "ArtifactStoreFailing",
        above(failures, thresholds, "artifact_store", CRITICAL),
        CRITICAL,
        "The content store fails",
        "The content store of {{ $labels.job }} failed {{ $value | humanize }} times to {{ $labels.operation }} within"
        f" {window} (limit {limit(thresholds, 'artifact_store', CRITICAL)}).",
    )


def _timers(thresholds: Thresholds) -> Alert:
    return Alert(
        "TimersOverdue",
        above("max by (job) (runwire_timer_oldest_overdue_seconds)", thresholds, "timers_overdue", CRITICAL),
        CRITICAL,
        "Runs that sleep or wait until a time do not go on",
        "The oldest timer of {{ $labels.job }} that has not fired was due {{ $value | humanizeDuration }} ago"
        f" (limit {limit(thresholds, 'timers_overdue', CRITICAL)}).",
        thresholds.level("timers_overdue", CRITICAL).for_,
    )
