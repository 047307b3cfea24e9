"""Rows about what runs wait for and what users see of them: timers, signals, parts, artifacts."""

from __future__ import annotations

from runwire.ops.dashboards.board import Row
from runwire.ops.dashboards.panels import (
    GREEN,
    GREY,
    INSTANCE,
    JOB,
    Limit,
    Query,
    coloured,
    lines,
    percentiles,
    quantile,
    rate,
)
from runwire.ops.thresholds import Thresholds


def content_rows(thresholds: Thresholds) -> tuple[Row, ...]:
    """For the board of runs."""
    runbook = thresholds.links.runbook
    return (
        Row(
            (
                lines(
                    "Timers overdue",
                    "Time since the oldest timer that has not fired was due. A worker fires it within a second.",
                    [Query(f"max(runwire_timer_oldest_overdue_seconds{{{JOB}}})", "oldest")],
                    unit="s",
                    limit=Limit.of(thresholds, "timers_overdue", runbook=f"{runbook}#timers-overdue"),
                ),
                lines(
                    "Lateness of timers",
                    "From the time a timer was due to the claim of its run by a worker.",
                    percentiles("runwire_timer_lateness_seconds"),
                    unit="s",
                    log=True,
                ),
                lines(
                    "Signals and timers that wait",
                    "Signals that no run has taken yet, which end with their run, and timers that were due.",
                    [
                        Query(f"max(runwire_signals_waiting{{{JOB}}})", "signals"),
                        Query(f"max(runwire_timers_overdue{{{JOB}}})", "overdue timers"),
                    ],
                    unit="short",
                ),
            ),
            title="Waits",
        ),
        Row(
            (
                lines(
                    "Open parts",
                    "Parts that workers write to.",
                    [Query(f"sum by (instance) (runwire_parts_open{{{INSTANCE}}})", "{{instance}}")],
                    unit="short",
                    many=True,
                    stacked=True,
                ),
                lines(
                    "Bytes of parts stored",
                    "Per second.",
                    [Query(rate("runwire_part_bytes_total"), "bytes")],
                    unit="Bps",
                ),
                coloured(
                    lines(
                        "Parts ended",
                        "Attempts a second. Abandoned: their node failed or was cancelled, or its worker died.",
                        [Query(rate("runwire_parts_ended_total", by="outcome"), "{{outcome}}")],
                        unit="suffix:/s",
                        stacked=True,
                    ),
                    {"sealed": GREEN, "abandoned": GREY},
                ),
            ),
            title="Parts",
        ),
        Row(
            (
                lines(
                    "Artifacts stored",
                    "Bytes of the artifacts that were stored, a second.",
                    [Query(rate("runwire_artifact_bytes_total"), "bytes")],
                    unit="Bps",
                ),
                lines(
                    "Content store failures",
                    "Operations that the content store failed, over five minutes, by operation.",
                    [
                        Query(
                            f"300 * {rate('runwire_artifact_store_failures_total', by='operation')}",
                            "{{operation}}",
                        )
                    ],
                    unit="short",
                    limit=Limit.of(thresholds, "artifact_store", runbook=f"{runbook}#content-store"),
                ),
                lines(
                    "Artifacts refused",
                    "For a limit of size, of the run or of the tenant.",
                    [Query(rate("runwire_artifacts_refused_total", by="reason"), "{{reason}}")],
                    unit="suffix:/s",
                    rare=True,
                ),
            ),
            title="Content",
        ),
        Row(
            (
                lines(
                    "Artifacts and their ends",
                    "Artifacts stored, and erased on request.",
                    [
                        Query(rate("runwire_artifacts_stored_total"), "stored"),
                        Query(rate("runwire_artifacts_erased_total"), "erased"),
                    ],
                    unit="suffix:/s",
                ),
                lines(
                    "Collected",
                    "Objects that the collector removed, by kind.",
                    [Query(rate("runwire_content_collected_total", by="kind"), "{{kind}}")],
                    unit="suffix:/s",
                    rare=True,
                ),
                lines(
                    "Orphans",
                    "Objects that no artifact refers to, past their grace. The collector deletes them.",
                    [Query(f"max(runwire_content_orphans{{{JOB}}})", "objects")],
                    unit="short",
                ),
            ),
        ),
    )


def part_row(thresholds: Thresholds) -> Row:
    """For the board of streams."""
    lag = Limit.of(thresholds, "part_lag", runbook=f"{thresholds.links.runbook}#part-lag")
    return Row(
        (
            lines(
                "Part lag",
                "From the commit of a part's bytes to their writing to a client, with the limits of its alerts.",
                percentiles("runwire_part_lag_seconds"),
                unit="s",
                limit=lag,
                log=True,
            ),
            lines(
                "Part lag p95 by instance",
                "One that is late alone has a slow way to PostgreSQL, or a busy event loop.",
                [
                    Query(
                        quantile(0.95, "runwire_part_lag_seconds", by="instance"),
                        "{{instance}}",
                        exemplars=True,
                    )
                ],
                unit="s",
                many=True,
                limit=lag,
                log=True,
            ),
        ),
        title="Parts",
    )
