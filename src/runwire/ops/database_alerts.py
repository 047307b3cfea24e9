"""Alerts on the database: what it runs out of, and what keeps it small."""

from __future__ import annotations

from collections.abc import Iterator

from runwire.ops.rules import Alert, Group, above, limit
from runwire.ops.thresholds import Severity, Thresholds

WARNING, CRITICAL, PAGE = Severity.WARNING, Severity.CRITICAL, Severity.PAGE


def database_alerts(thresholds: Thresholds) -> Group:
    return Group("runwire-database", tuple(_database(thresholds)))


def _database(thresholds: Thresholds) -> Iterator[Alert]:
    yield Alert(
        "DatabaseUnwell",
        above("max by (job, limit) (runwire_database_used_ratio)", thresholds, "database_used", PAGE),
        PAGE,
        "PostgreSQL is about to refuse",
        "{{ $value | humanizePercentage }} of the {{ $labels.limit }} of the database of {{ $labels.job }} are used up"
        f" (limit {limit(thresholds, 'database_used', PAGE)}).",
        thresholds.level("database_used", PAGE).for_,
    )
    yield from _at_risk(thresholds)
    yield Alert(
        "PartitionsShort",
        above("max by (job) (runwire_event_partitions_missing)", thresholds, "partitions_missing", CRITICAL),
        CRITICAL,
        "Days ahead have no partition for their events",
        "{{ $value | humanize }} days ahead of {{ $labels.job }} lack a partition"
        f" (limit {limit(thresholds, 'partitions_missing', CRITICAL)}).",
        thresholds.level("partitions_missing", CRITICAL).for_,
    )
    due = thresholds.following("retention", WARNING, setting="max by (job) (runwire_archive_after_seconds)")
    yield Alert(
        "RetentionBehind",
        f"max by (job) (runwire_archive_oldest_pending_seconds) > {due}",
        WARNING,
        "Finished runs are not archived",
        "The oldest finished run of {{ $labels.job }} that is not archived ended {{ $value | humanizeDuration }} ago"
        f" (limit {limit(thresholds, 'retention', WARNING)}).",
    )


def _at_risk(thresholds: Thresholds) -> Iterator[Alert]:
    """One alert for what goes on unnoticed until it is a page: each has a label of its own."""
    for name, series, summary, told in (
        (
            "oldest_transaction",
            "runwire_database_oldest_transaction_seconds",
            "A transaction does not end, and vacuum waits for it",
            "The oldest transaction of the database of {{ $labels.job }} began {{ $value | humanizeDuration }} ago",
        ),
        (
            "standby_lag",
            "runwire_database_standby_lag_seconds",
            "A standby does not keep up",
            "A standby of the database of {{ $labels.job }} lags by {{ $value | humanizeDuration }}",
        ),
        (
            "slot_retained",
            "runwire_database_slot_retained_bytes",
            "A replication slot holds WAL back",
            "A replication slot of the database of {{ $labels.job }} holds {{ $value | humanize1024 }}B of WAL back",
        ),
    ):
        yield Alert(
            "DatabaseAtRisk",
            above(f"max by (job) ({series})", thresholds, name, CRITICAL),
            CRITICAL,
            summary,
            f"{told} (limit {limit(thresholds, name, CRITICAL)}).",
            thresholds.level(name, CRITICAL).for_,
            (("risk", name),),
        )
