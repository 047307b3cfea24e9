"""Outbox: from the append to the bus, and who does the work."""

from __future__ import annotations

from runwire.ops.dashboards.board import Board, Row
from runwire.ops.dashboards.panels import (
    BLUE,
    GREEN,
    GREY,
    JOB,
    LIGHT,
    ORANGE,
    PURPLE,
    RED,
    Limit,
    Query,
    coloured,
    lines,
    number,
    percentiles,
    quantile,
    rate,
)
from runwire.ops.pipeline_alerts import BACKLOG
from runwire.ops.thresholds import Thresholds


def board(thresholds: Thresholds) -> Board:
    runbook = thresholds.links.runbook
    lag = Limit.of(thresholds, "publish_lag", runbook=f"{runbook}#publish-lag")
    backlog = Limit.of(thresholds, "outbox_backlog", runbook=f"{runbook}#outbox-backlog")
    oldest = Limit.of(thresholds, "oldest_unpublished", runbook=f"{runbook}#oldest-unpublished-event")
    heartbeat = Limit.of(thresholds, "publisher_heartbeat", runbook=f"{runbook}#publisher-heartbeat")
    by_poll = rate("runwire_outbox_wakeups_total", where='by="poll"')
    stats = (
        number(
            "Publisher heartbeat age",
            "Time since any publisher was last heard of. It beats every 2 s.",
            f"max(runwire_publisher_heartbeat_age_seconds{{{JOB}}})",
            unit="s",
            limit=heartbeat,
        ),
        number(
            "Publishers",
            "Publishers that are alive.",
            f"sum(max by (job) (runwire_publishers{{{JOB}}}))",
            unit="none",
            base=RED,
            limit=Limit.any(GREEN, runbook=f"{runbook}#publisher-heartbeat"),
        ),
        number(
            "Publishers per shard",
            "Publishers that say they publish the same runs, where there are most. One is right.",
            f"max(runwire_publishers_per_shard_max{{{JOB}}})",
            unit="none",
            base=GREEN,
            limit=Limit.above(thresholds, "extra_publishers", usual=1, runbook=f"{runbook}#more-than-one-publisher"),
        ),
        number(
            "Backlog",
            "Events in the log that are not published.",
            f"sum(max by (job) (runwire_outbox_backlog_events{{{JOB}}}))",
            unit="short",
            base=BLUE,
        ),
        number(
            "Unpublished for",
            "Age of the event that has waited longest for the publisher.",
            f"max(runwire_outbox_oldest_age_seconds{{{JOB}}})",
            unit="s",
            limit=oldest,
        ),
        number(
            "Publish lag p95",
            "From an event's commit to its being on the bus. Empty while nothing is published.",
            quantile(0.95, "runwire_publish_lag_seconds"),
            unit="s",
            limit=lag,
        ),
        number(
            "Found by polling",
            "Share of publish steps that the safety sweep woke. Much of it means that notifications get lost.",
            f"{by_poll} / ({rate('runwire_outbox_wakeups_total')} > 0)",
            unit="percentunit",
            base=BLUE,
            decimals=0,
        ),
    )
    wakeups = lines(
        "Wake-ups that found work",
        "Wake-ups by source. In one process it is local; between processes notify. Poll is the safety net.",
        [Query(rate("runwire_outbox_wakeups_total", by="by"), "{{by}}")],
        unit="ops",
        stacked=True,
    )
    return Board(
        "outbox",
        "Outbox",
        "From the append to the bus: how fast, how far behind, and what fails.",
        (
            Row(stats, height=3, widths=(4, 3, 4, 3, 3, 4, 3)),
            Row(
                (
                    lines(
                        "Publish lag",
                        "From an event's commit to its being on the bus, with the limits of its alerts.",
                        percentiles("runwire_publish_lag_seconds"),
                        unit="s",
                        limit=lag,
                        log=True,
                    ),
                    lines(
                        "Appended and published",
                        "Where the lines part, the backlog grows.",
                        [
                            Query(rate("runwire_events_appended_total"), "appended", BLUE),
                            Query(rate("runwire_events_published_total"), "published", PURPLE),
                        ],
                        unit="eps",
                    ),
                ),
                title="Publishing",
            ),
            Row(
                (
                    lines(
                        "Backlog",
                        "Events in the log that are not published.",
                        [Query(f"max by (job) (runwire_outbox_backlog_events{{{JOB}}})", "{{job}}")],
                        unit="short",
                    ),
                    lines(
                        "Backlog in seconds",
                        "The publishers' work at their present rate, averaged over five minutes, with the limit of its "
                        "alert.",
                        [Query(f"{BACKLOG}{{{JOB}}}", "{{job}}")],
                        unit="s",
                        limit=backlog,
                    ),
                    lines(
                        "Oldest unpublished event",
                        "Age of the event that has waited longest, with the limit of its alert.",
                        [Query(f"max by (job) (runwire_outbox_oldest_age_seconds{{{JOB}}})", "{{job}}")],
                        unit="s",
                        limit=oldest,
                    ),
                ),
            ),
            Row(
                (
                    coloured(wakeups, {"local": GREEN, "notify": BLUE, "poll": ORANGE}),
                    lines(
                        "Events per publish step",
                        "Small steps follow appends one by one; large ones catch up.",
                        [
                            Query(quantile(0.5, "runwire_publish_batch_events"), "p50", LIGHT),
                            Query(quantile(0.95, "runwire_publish_batch_events"), "p95", BLUE),
                        ],
                        unit="short",
                    ),
                    coloured(
                        lines(
                            "Failed publish steps",
                            "Tried again, at most 5 s apart. Poisoned: one run fails on its own, and stops no other.",
                            [Query(rate("runwire_publish_failures_total", by="reason"), "{{reason}}")],
                            unit="ops",
                            rare=True,
                            stacked=True,
                        ),
                        {"bus": ORANGE, "database": RED, "poisoned": PURPLE},
                    ),
                ),
            ),
            Row(
                (
                    lines(
                        "Append duration",
                        "From the append call to its commit, for each shared commit.",
                        percentiles("runwire_append_duration_seconds"),
                        unit="s",
                        log=True,
                    ),
                    coloured(
                        lines(
                            "Appends that stored nothing",
                            "Storage unavailable and partition missing count against the objective; the others are "
                            "right answers to a caller that is late or wrong.",
                            [Query(rate("runwire_append_failures_total", by="reason"), "{{reason}}")],
                            unit="suffix:/s",
                            rare=True,
                            stacked=True,
                        ),
                        {
                            "storage_unavailable": RED,
                            "partition_missing": PURPLE,
                            "fence_stale": ORANGE,
                            "run_not_found": GREY,
                        },
                    ),
                ),
                title="Appending",
            ),
        ),
    )
