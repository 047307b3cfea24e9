"""One alert for each level of each threshold, and those that watch the watching."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from runwire.ops.rules import JOBS, Alert, Group, Recording
from runwire.ops.thresholds import Severity, Thresholds

WARNING, CRITICAL, PAGE = Severity.WARNING, Severity.CRITICAL, Severity.PAGE

BACKLOG: Final = "job:runwire_outbox_backlog_events:avg5m"
LAG: Final = "job:runwire_publish_lag_seconds:p95_rate"
OBSERVED: Final = "runwire_observer_last_success_timestamp_seconds"


def recordings(thresholds: Thresholds) -> Group:
    """Expressions that alerts and dashboards share."""
    quantile = thresholds.named("publish_lag").quantile
    rules = [
        Recording(
            f"{LAG}{window}",
            f"histogram_quantile({quantile}, sum by (job, le) ("
            f"rate(runwire_publish_lag_seconds_bucket[{thresholds.duration(window)}])))",
        )
        for window in _lag_windows(thresholds)
    ]
    backlog_window = thresholds.duration(thresholds.window("outbox_backlog", PAGE))
    # Every observer sees the same outbox, so the highest is the one that is up to date.
    backlog = Recording(BACKLOG, f"max by (job) (avg_over_time(runwire_outbox_backlog_events[{backlog_window}]))")
    return Group("runwire-recordings", (*rules, backlog))


def pipeline_alerts(thresholds: Thresholds) -> Group:
    return Group("runwire-pipeline", (*_lag(thresholds), *_outbox(thresholds), *_runs(thresholds)))


def stream_alerts(thresholds: Thresholds) -> Group:
    churn = _above("max by (job, instance) (runwire_sse_run_reconnects_1m_max)", thresholds, "sse_churn", WARNING)
    flap = _above("max by (job, instance) (runwire_sse_client_reconnects_1m_max)", thresholds, "sse_flapping", WARNING)
    age = _above("max by (job, instance) (runwire_sse_write_age_seconds_max)", thresholds, "sse_heartbeat", CRITICAL)
    full = "max by (job, instance) (runwire_http_descriptors / (runwire_http_descriptors_max > 0))"
    return Group(
        "runwire-streams",
        (
            Alert(
                "HttpConnectionsFull",
                _above(full, thresholds, "http_descriptors", CRITICAL),
                CRITICAL,
                "An API process is nearly out of descriptors for connections",
                "Connections take {{ $value | humanizePercentage }} of the descriptors that {{ $labels.instance }} has"
                f" for them (limit {_limit(thresholds, 'http_descriptors', CRITICAL)}).",
                thresholds.level("http_descriptors", CRITICAL).for_,
            ),
            Alert(
                "SseChurn",
                churn,
                WARNING,
                "Viewers of one run keep reconnecting",
                "One run has had {{ $value | humanize }} reconnects in a minute on {{ $labels.instance }}"
                f" (limit {_limit(thresholds, 'sse_churn', WARNING)}).",
            ),
            Alert(
                "SseFlapping",
                flap,
                WARNING,
                "A client keeps reconnecting",
                "One client has reconnected {{ $value | humanize }} times in a minute to {{ $labels.instance }}"
                f" (limit {_limit(thresholds, 'sse_flapping', WARNING)}).",
            ),
            Alert(
                "SseHeartbeatMissed",
                age,
                CRITICAL,
                "An open stream gets no heartbeats",
                "Nothing has been written to an open stream of {{ $labels.instance }} for"
                " {{ $value | humanizeDuration }}"
                f" (limit {_limit(thresholds, 'sse_heartbeat', CRITICAL)}).",
            ),
        ),
    )


def watching_alerts(thresholds: Thresholds) -> Group:
    return Group("runwire-watching", tuple(_watching(thresholds)))


def _watching(thresholds: Thresholds) -> Iterator[Alert]:
    stale = thresholds.level("observer_stale", PAGE)
    down = thresholds.level("target_down", CRITICAL)
    unwell = thresholds.level("role_unwell", CRITICAL)
    dropped = thresholds.level("telemetry_dropped", WARNING)
    window = thresholds.duration(thresholds.window("telemetry_dropped", WARNING))
    yield Alert(
        "TargetDown",
        f"count by (job, instance) (up{{{JOBS}}} == 0) > {down.value:g}",
        CRITICAL,
        "A runwire process cannot be scraped",
        "{{ $labels.instance }} of job {{ $labels.job }} does not answer its scrapes"
        " ({{ $value | humanize }} target down).",
        down.for_,
    )
    yield Alert(
        "RoleUnwell",
        _above("max by (job, instance, role) (runwire_role_unwell)", thresholds, "role_unwell", CRITICAL),
        CRITICAL,
        "A process cannot do what its role is for",
        "The role {{ $labels.role }} of {{ $labels.instance }} cannot do {{ $value | humanize }} of its duties;"
        " /readyz says which, and why.",
        unwell.for_,
    )
    yield Alert(
        "ObserverStale",
        _above(f"time() - max by (job) ({OBSERVED})", thresholds, "observer_stale", PAGE) + f"\nor\nabsent({OBSERVED})",
        PAGE,
        "The observer sees nothing, so alerts on backlog, runs and invariants are blind",
        "{{ if $labels.job }}The observer of {{ $labels.job }} last looked at everything"
        " {{ $value | humanizeDuration }} ago"
        f" (limit {_limit(thresholds, 'observer_stale', PAGE)})."
        "{{ else }}No process with the role observer is scraped.{{ end }}",
        stale.for_,
    )
    yield Alert(
        "TelemetryDropped",
        f"sum by (job, signal) (increase(runwire_telemetry_dropped_total[{window}])) > {dropped.value:g}",
        WARNING,
        "Spans or log lines are dropped",
        f"{{{{ $value | humanize }}}} {{{{ $labels.signal }}}} of {{{{ $labels.job }}}} were dropped within {window}.",
        dropped.for_,
    )
    yield Alert(
        "Watchdog",
        "vector(1)",
        None,
        "Alerting works",
        "Always fires ({{ $value | humanize }}). Raise the alarm when it stops arriving.",
    )


def _lag(thresholds: Thresholds) -> Iterator[Alert]:
    worded = {
        WARNING: "Events reach the bus late",
        CRITICAL: "Events reach the bus later than the SLO allows",
        PAGE: "Events reach the bus so late that every viewer notices",
    }
    for severity, summary in worded.items():
        level = thresholds.level("publish_lag", severity)
        window = thresholds.window("publish_lag", severity)
        yield Alert(
            f"PublishLag{severity.value.capitalize()}",
            _above(f"{LAG}{window}", thresholds, "publish_lag", severity),
            severity,
            summary,
            "The p95 from commit to bus is {{ $value | humanizeDuration }} in {{ $labels.job }}"
            f" (limit {_limit(thresholds, 'publish_lag', severity)}).",
            level.for_,
        )


def _outbox(thresholds: Thresholds) -> Iterator[Alert]:
    yield from _oldest_unpublished(thresholds)
    yield Alert(
        "OutboxBacklog",
        _above(BACKLOG, thresholds, "outbox_backlog", PAGE),
        PAGE,
        "More is appended than published",
        "{{ $value | humanize }} events of {{ $labels.job }} are unpublished, averaged over "
        f"{thresholds.duration(thresholds.window('outbox_backlog', PAGE))}"
        f" (limit {_limit(thresholds, 'outbox_backlog', PAGE)}).",
    )
    yield Alert(
        "PublisherDown",
        _above("max by (job) (runwire_publisher_heartbeat_age_seconds)", thresholds, "publisher_heartbeat", PAGE),
        PAGE,
        "No publisher is alive: nothing reaches viewers",
        "No publisher of {{ $labels.job }} has been heard of for {{ $value | humanizeDuration }}"
        f" (limit {_limit(thresholds, 'publisher_heartbeat', PAGE)}).",
    )
    extra = thresholds.level("extra_publishers", PAGE)
    yield Alert(
        "ExtraPublisher",
        _above("max by (job) (runwire_publishers_per_shard_max) - 1", thresholds, "extra_publishers", PAGE),
        PAGE,
        "Several publishers say that they publish the same runs",
        "{{ $value | humanize }} more than the one that each shard of {{ $labels.job }} may have.",
        extra.for_,
    )


def _oldest_unpublished(thresholds: Thresholds) -> Iterator[Alert]:
    """One alert of two levels. Their label keeps Alertmanager from taking the end of one for the end of both."""
    oldest = thresholds.named("oldest_unpublished")
    waits = thresholds.level("oldest_unpublished", PAGE)
    levels = [("sustained", waits.value, waits.for_, _limit(thresholds, "oldest_unpublished", PAGE).split(",")[0])]
    if oldest.page_at_once is not None:
        levels.append(("at_once", oldest.page_at_once.value, "0s", oldest.said_at_once()))
    for level, value, for_, limit in levels:
        yield Alert(
            "OldestEventUnpublished",
            f"max by (job) (runwire_outbox_oldest_age_seconds) > {value:.10g}",
            PAGE,
            "An event is not published",
            "The oldest unpublished event of {{ $labels.job }} has waited {{ $value | humanizeDuration }}"
            f" (limit {limit}).",
            for_,
            (("level", level),),
        )


def _runs(thresholds: Thresholds) -> Iterator[Alert]:
    yield Alert(
        "RunStalled",
        _above('max by (job) (runwire_run_oldest_age_seconds{state="started"})', thresholds, "run_stalled", PAGE),
        PAGE,
        "A run has started and does not end",
        "The oldest started run of {{ $labels.job }} has been going on for {{ $value | humanizeDuration }},"
        " without its waits"
        f" (limit {_limit(thresholds, 'run_stalled', PAGE)}).",
    )
    for_ = thresholds.duration(thresholds.window("blocked_loop", WARNING))
    yield Alert(
        "EventLoopBlocked",
        _above(
            f"sum by (job, node) (increase(runwire_event_loop_blocked_seconds_total[{for_}]))",
            thresholds,
            "blocked_loop",
            WARNING,
        ),
        WARNING,
        "A node makes the event loop of its worker stand",
        "Node {{ $labels.node }} made event loops of {{ $labels.job }} stand for {{ $value | humanizeDuration }}"
        f" within {for_} (limit {_limit(thresholds, 'blocked_loop', WARNING)}).",
    )
    lost = thresholds.duration(thresholds.window("repeated_losses", WARNING))
    yield Alert(
        "RunsKillWorkers",
        _above(
            f"sum by (job) (increase(runwire_run_losses_repeated_total[{lost}]))",
            thresholds,
            "repeated_losses",
            WARNING,
        ),
        WARNING,
        "Workers die with the same run again",
        "{{ $value | humanize }} times within " + lost + " a worker of {{ $labels.job }} died with a run that had lost"
        f" one before and finished no node since (limit {_limit(thresholds, 'repeated_losses', WARNING)}).",
    )
    overdue = thresholds.level("timers_overdue", CRITICAL)
    yield Alert(
        "TimersOverdue",
        _above("max by (job) (runwire_timer_oldest_overdue_seconds)", thresholds, "timers_overdue", CRITICAL),
        CRITICAL,
        "Runs that sleep or wait until a time do not go on",
        "The oldest timer of {{ $labels.job }} that has not fired was due {{ $value | humanizeDuration }} ago"
        f" (limit {_limit(thresholds, 'timers_overdue', CRITICAL)}).",
        overdue.for_,
    )
    failed_within = thresholds.duration(thresholds.window("artifact_store", CRITICAL))
    yield Alert(
        "ArtifactStoreFailing",
        _above(
            f"sum by (job, operation) (increase(runwire_artifact_store_failures_total[{failed_within}]))",
            thresholds,
            "artifact_store",
            CRITICAL,
        ),
        CRITICAL,
        "The content store fails",
        "The content store of {{ $labels.job }} failed {{ $value | humanize }} times to {{ $labels.operation }} within"
        f" {failed_within} (limit {_limit(thresholds, 'artifact_store', CRITICAL)}).",
    )
    yield Alert(
        "SequenceGap",
        _broken(thresholds, 'invariant="density"'),
        PAGE,
        "A run's log has a gap",
        "{{ $value | humanize }} runs of {{ $labels.job }} have lost events, or had for some time in the last"
        f" {thresholds.duration(thresholds.window('invariant', PAGE))}.",
    )
    yield Alert(
        "InvariantBroken",
        _broken(thresholds, 'invariant!="density"'),
        PAGE,
        "The database holds what cannot be",
        "{{ $value | humanize }} runs of {{ $labels.job }} break {{ $labels.invariant }}, or did for some time in the"
        f" last {thresholds.duration(thresholds.window('invariant', PAGE))}.",
    )
    yield Alert(
        "RetentionBehind",
        _above("max by (job) (runwire_archive_oldest_pending_seconds)", thresholds, "retention", WARNING),
        WARNING,
        "Finished runs are not archived",
        "The oldest finished run of {{ $labels.job }} that is not archived ended {{ $value | humanizeDuration }} ago"
        f" (limit {_limit(thresholds, 'retention', WARNING)}).",
    )


def _broken(thresholds: Thresholds, which: str) -> str:
    """The gauge says what is broken now; the counter remembers what was mended between two scrapes."""
    value = f"{thresholds.value('invariant', PAGE):g}"
    window = thresholds.duration(thresholds.window("invariant", PAGE))
    return (
        f"max by (job, invariant) (runwire_invariant_violating_runs{{{which}}}) > {value}\n"
        f"or\nsum by (job, invariant) (increase(runwire_invariant_violations_total{{{which}}}[{window}])) > {value}"
    )


def _above(expr: str, thresholds: Thresholds, name: str, severity: Severity) -> str:
    return f"{expr} > {thresholds.value(name, severity):.10g}"


def _limit(thresholds: Thresholds, name: str, severity: Severity) -> str:
    return thresholds.named(name).said(severity).removeprefix("> ")


def _lag_windows(thresholds: Thresholds) -> list[str]:
    return list(dict.fromkeys(thresholds.window("publish_lag", severity) for severity in Severity))
