"""One alert for each level of each threshold, and those that watch the watching."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from runwire.ops.rules import JOBS, Alert, Group, Recording, above, in_window, limit
from runwire.ops.thresholds import Severity, Thresholds

WARNING, CRITICAL, PAGE = Severity.WARNING, Severity.CRITICAL, Severity.PAGE

BACKLOG: Final = "job:runwire_outbox_backlog_seconds:avg5m"
LAG: Final = "job:runwire_publish_lag_seconds:p95_rate"
PART_LAG: Final = "job:runwire_part_lag_seconds:p95_rate"
OBSERVED: Final = "runwire_observer_last_success_timestamp_seconds"


def recordings(thresholds: Thresholds) -> Group:
    """Expressions that alerts and dashboards share."""

    def p95(name: str) -> Callable[[str], str]:
        quantile, buckets = thresholds.named(name).quantile, f"runwire_{name}_seconds_bucket"
        return lambda window: f"histogram_quantile({quantile}, sum by (job, le) (rate({buckets}[{window}])))"

    rules = [
        Recording(f"{series}{window}", in_window(p95(name), window, thresholds))
        for name, series in (("publish_lag", LAG), ("part_lag", PART_LAG))
        for window in thresholds.windows(name)
    ]
    return Group("runwire-recordings", (*rules, Recording(BACKLOG, _backlog_s(thresholds))))


def _backlog_s(thresholds: Thresholds) -> str:
    """Little's law: the mean wait is the mean number that waits, divided by the rate at which they go."""
    window = thresholds.duration(thresholds.window("outbox_backlog", PAGE))
    # Every observer sees the same outbox, so the highest is the one that is up to date.
    events = f"max by (job) (avg_over_time(runwire_outbox_backlog_events[{window}]))"
    # A publisher that is gone exports no rate: then it is 0.
    rate = f"sum by (job) (rate(runwire_events_published_total[{window}])) or 0 * {events}"
    return f"{events}\n/\nclamp_min({rate}, {thresholds.rate_at_least('outbox_backlog', PAGE):.10g})"


def pipeline_alerts(thresholds: Thresholds) -> Group:
    return Group("runwire-pipeline", (*_lag(thresholds), *_outbox(thresholds), *_log(thresholds)))


def stream_alerts(thresholds: Thresholds) -> Group:
    churn = above("max by (job, instance) (runwire_sse_run_reconnects_1m_max)", thresholds, "sse_churn", WARNING)
    flap = above("max by (job, instance) (runwire_sse_client_reconnects_1m_max)", thresholds, "sse_flapping", WARNING)
    heartbeat = thresholds.following(
        "sse_heartbeat", CRITICAL, setting="max by (job, instance) (runwire_sse_heartbeat_seconds)"
    )
    age = f"max by (job, instance) (runwire_sse_write_age_seconds_max) > {heartbeat}"
    full = "max by (job, instance) (runwire_http_descriptors / (runwire_http_descriptors_max > 0))"
    return Group(
        "runwire-streams",
        (
            Alert(
                "HttpConnectionsFull",
                above(full, thresholds, "http_descriptors", CRITICAL),
                CRITICAL,
                "An API process is nearly out of descriptors for connections",
                "Connections take {{ $value | humanizePercentage }} of the descriptors that {{ $labels.instance }} has"
                f" for them (limit {limit(thresholds, 'http_descriptors', CRITICAL)}).",
                thresholds.level("http_descriptors", CRITICAL).for_,
            ),
            Alert(
                "SseChurn",
                churn,
                WARNING,
                "Viewers of one run keep reconnecting",
                "One run has had {{ $value | humanize }} reconnects in a minute on {{ $labels.instance }}"
                f" (limit {limit(thresholds, 'sse_churn', WARNING)}).",
            ),
            Alert(
                "SseFlapping",
                flap,
                WARNING,
                "A client keeps reconnecting",
                "One client has reconnected {{ $value | humanize }} times in a minute to {{ $labels.instance }}"
                f" (limit {limit(thresholds, 'sse_flapping', WARNING)}).",
            ),
            Alert(
                "SseHeartbeatMissed",
                age,
                CRITICAL,
                "An open stream gets no heartbeats",
                "Nothing has been written to an open stream of {{ $labels.instance }} for"
                " {{ $value | humanizeDuration }}"
                f" (limit {limit(thresholds, 'sse_heartbeat', CRITICAL)}).",
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
        above("max by (job, instance, role) (runwire_role_unwell)", thresholds, "role_unwell", CRITICAL),
        CRITICAL,
        "A process cannot do what its role is for",
        "The role {{ $labels.role }} of {{ $labels.instance }} cannot do {{ $value | humanize }} of its duties;"
        " /readyz says which, and why.",
        unwell.for_,
    )
    # One that is gone exports nothing, so what it said last counts. Without any at all there is nothing to say by job.
    seen = f"last_over_time({OBSERVED}[{thresholds.duration(thresholds.window('observer_stale', PAGE))}])"
    yield Alert(
        "ObserverStale",
        above(f"time() - max by (job) ({seen})", thresholds, "observer_stale", PAGE)
        + f"\nor\ngroup by () (up{{{JOBS}}}) unless on () group by () ({seen})"
        + f"\nor\nabsent(up{{{JOBS}}}) and on () absent({seen})",
        PAGE,
        "The observer sees nothing, so alerts on backlog, runs and invariants are blind",
        "{{ if eq $value 1.0 }}No process with the role observer is scraped."
        "{{ else }}The observer of {{ $labels.job }} last looked at everything"
        " {{ $value | humanizeDuration }} ago"
        f" (limit {limit(thresholds, 'observer_stale', PAGE)})."
        "{{ end }}",
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
            above(f"{LAG}{window}", thresholds, "publish_lag", severity),
            severity,
            summary,
            "The p95 from commit to bus is {{ $value | humanizeDuration }} in {{ $labels.job }}"
            f" (limit {limit(thresholds, 'publish_lag', severity)}).",
            level.for_,
        )


def _outbox(thresholds: Thresholds) -> Iterator[Alert]:
    yield from _oldest_unpublished(thresholds)
    yield Alert(
        "OutboxBacklog",
        above(BACKLOG, thresholds, "outbox_backlog", PAGE),
        PAGE,
        "More is appended than published",
        "The publishers of {{ $labels.job }} have {{ $value | humanizeDuration }} of work before them, averaged over "
        f"{thresholds.duration(thresholds.window('outbox_backlog', PAGE))}"
        f" (limit {limit(thresholds, 'outbox_backlog', PAGE)}).",
    )
    yield Alert(
        "PublisherDown",
        above("max by (job) (runwire_publisher_heartbeat_age_seconds)", thresholds, "publisher_heartbeat", PAGE),
        PAGE,
        "No publisher is alive: nothing reaches viewers",
        "No publisher of {{ $labels.job }} has been heard of for {{ $value | humanizeDuration }}"
        f" (limit {limit(thresholds, 'publisher_heartbeat', PAGE)}).",
    )
    extra = thresholds.level("extra_publishers", PAGE)
    yield Alert(
        "ExtraPublisher",
        above("max by (job) (runwire_publishers_per_shard_max) - 1", thresholds, "extra_publishers", PAGE),
        PAGE,
        "Several publishers say that they publish the same runs",
        "{{ $value | humanize }} more than the one that each shard of {{ $labels.job }} may have.",
        extra.for_,
    )


def _oldest_unpublished(thresholds: Thresholds) -> Iterator[Alert]:
    """One alert of two levels. Their label keeps Alertmanager from taking the end of one for the end of both."""
    oldest = thresholds.named("oldest_unpublished")
    waits = thresholds.level("oldest_unpublished", PAGE)
    levels = [("sustained", waits.value, waits.for_, limit(thresholds, "oldest_unpublished", PAGE).split(",")[0])]
    if oldest.page_at_once is not None:
        levels.append(("at_once", oldest.page_at_once.value, "0s", oldest.said_at_once()))
    for level, value, for_, said in levels:
        yield Alert(
            "OldestEventUnpublished",
            f"max by (job) (runwire_outbox_oldest_age_seconds) > {value:.10g}",
            PAGE,
            "An event is not published",
            "The oldest unpublished event of {{ $labels.job }} has waited {{ $value | humanizeDuration }}"
            f" (limit {said}).",
            for_,
            (("level", level),),
        )


def _log(thresholds: Thresholds) -> Iterator[Alert]:
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


def _broken(thresholds: Thresholds, which: str) -> str:
    """The gauge says what is broken now, or was before the observer went away; the counter remembers what was mended
    between two scrapes.
    """
    value = f"{thresholds.value('invariant', PAGE):g}"
    window = thresholds.duration(thresholds.window("invariant", PAGE))
    return (
        f"max by (job, invariant) (last_over_time(runwire_invariant_violating_runs{{{which}}}[{window}])) > {value}\n"
        f"or\nsum by (job, invariant) (increase(runwire_invariant_violations_total{{{which}}}[{window}])) > {value}"
    )
