"""For each alert what makes it fire and what does not, as Prometheus would scrape it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from runwire.content.part_metrics import PART_LAG_BUCKETS_S
from runwire.telemetry.metrics import LAG_BUCKETS_S, RUN_BUCKETS_S

SERVICE: Final = 'job="runwire", instance="a"'
JOB: Final = {"job": "runwire"}
INSTANCE: Final = {"job": "runwire", "instance": "a"}
BLOCKED: Final = "runwire_event_loop_blocked_seconds_total"
LOSSES: Final = "runwire_run_losses_repeated_total"
STORE: Final = "runwire_artifact_store_failures_total"
UNCLAIMED: Final = "runwire_run_oldest_unclaimed_seconds"
ENDED: Final = "runwire_runs_finished_total"
TIMER: Final = "runwire_timer_oldest_overdue_seconds"


@dataclass(frozen=True, slots=True)
class Case:
    """`series` in promtool's notation, a sample every `every`; asked `at` a time after the first.

    `more`: labels of further alerts of that name that fire.
    """

    alert: str
    when: str
    series: Mapping[str, str]
    fires: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    at: str = "10m"
    every: str = "15s"
    more: tuple[Mapping[str, str], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.alert} {'fires' if self.fires else 'is silent'} {self.when}"


def gauge(name: str, values: str | float, labels: str = "") -> dict[str, str]:
    """A number that stays, or values in promtool's notation."""
    selected = ", ".join(filter(None, (SERVICE, labels)))
    return {f"{name}{{{selected}}}": values if isinstance(values, str) else f"{values}x60"}


def counter(name: str, per_sample: float, labels: str = "", *, samples: int = 60) -> dict[str, str]:
    return gauge(name, f"0+{per_sample:g}x{samples}", labels)


def histogram(
    name: str, observed: Mapping[float, float], *, edges: tuple[float, ...] = LAG_BUCKETS_S, samples: int = 60
) -> dict[str, str]:
    """`observed`: how many values fall into the bucket under each edge, between two samples."""
    series: dict[str, str] = {}
    for edge in edges:
        below = sum(count for upper, count in observed.items() if upper <= edge)
        series |= counter(f"{name}_bucket", below, f'le="{edge}"', samples=samples)
    total = sum(observed.values())
    series |= counter(f"{name}_bucket", total, 'le="+Inf"', samples=samples)
    return series | counter(f"{name}_count", total, samples=samples)


def lag(edge: float) -> dict[str, str]:
    return histogram("runwire_publish_lag_seconds", {edge: 100})


def ended(agent: str, **by_outcome: float) -> dict[str, str]:
    series: dict[str, str] = {}
    for outcome in ("finished", "failed", "cancelled"):
        series |= counter(ENDED, by_outcome.get(outcome, 0), f'agent="{agent}", outcome="{outcome}"')
    return series


def part_lag(edge: float, *, each: float = 100) -> dict[str, str]:
    return histogram("runwire_part_lag_seconds", {edge: each}, edges=PART_LAG_BUCKETS_S)


PUBLISHED: Final = "runwire_events_published_total"
BACKLOG, OLDEST = "runwire_outbox_backlog_events", "runwire_outbox_oldest_age_seconds"
HEARTBEAT, PUBLISHERS = "runwire_publisher_heartbeat_age_seconds", "runwire_publishers_per_shard_max"
ARCHIVE: Final = "runwire_archive_oldest_pending_seconds"
TRANSACTION, STANDBY = "runwire_database_oldest_transaction_seconds", "runwire_database_standby_lag_seconds"
SLOT: Final = "runwire_database_slot_retained_bytes"
OVERDUE, GOLDEN, STALLED = "runwire_runs_overdue", 'agent="golden"', JOB | {"agent": "golden"}
AFTER, USED, CONNECTIONS = "runwire_archive_after_seconds", "runwire_database_used_ratio", 'limit="connections"'
WRITE_AGE, PERIOD = "runwire_sse_write_age_seconds_max", "runwire_sse_heartbeat_seconds"
BROKEN, FOUND = "runwire_invariant_violating_runs", "runwire_invariant_violations_total"
SEEN, DROPPED = "runwire_observer_last_success_timestamp_seconds", "runwire_telemetry_dropped_total"
SUSTAINED, AT_ONCE = JOB | {"level": "sustained"}, JOB | {"level": "at_once"}
DENSITY, TERMINAL = 'invariant="density"', 'invariant="single_terminal"'

PIPELINE: Final = [
    Case("PublishLagWarning", "when p95 is between 100 and 250 ms", lag(0.25), True, JOB),
    Case("PublishLagWarning", "when p95 is below 100 ms", lag(0.1), False),
    Case("PublishLagWarning", "before two minutes have passed", lag(0.25), False, at="1m45s"),
    Case("PublishLagWarning", "when nothing is published", lag(0.25) | histogram(
        "runwire_publish_lag_seconds", {0.25: 0}), False),
    Case("PublishLagCritical", "when p95 is between 0.5 and 1 s", lag(1.0), True, JOB),
    Case("PublishLagCritical", "when p95 is below 0.5 s", lag(0.5), False),
    Case("PublishLagPage", "when p95 is above 1 s", lag(2.5), True, JOB),
    Case("PublishLagPage", "when p95 is below 1 s", lag(1.0), False),
    Case("OldestEventUnpublished", "after a minute above 5 s", gauge(OLDEST, 6), True, SUSTAINED, at="2m"),
    Case("OldestEventUnpublished", "at once above 15 s", gauge(OLDEST, "0x10 16x50"), True, AT_ONCE, at="2m45s"),
    Case("OldestEventUnpublished", "at once at 15 s", gauge(OLDEST, "0x10 15x50"), False, at="2m45s"),
    Case("OldestEventUnpublished", "at 5 s", gauge(OLDEST, 5), False),
    Case("OldestEventUnpublished", "before a minute has passed", gauge(OLDEST, 6), False, at="45s"),
    Case("OutboxBacklog", "above a second of work", gauge(BACKLOG, 2010) | counter(PUBLISHED, 15 * 2000), True, JOB),
    Case("OutboxBacklog", "below a second of work", gauge(BACKLOG, 1990) | counter(PUBLISHED, 15 * 2000), False),
    Case("OutboxBacklog", "at 40 000 events/s with 900 on their way", gauge(BACKLOG, 900)
         | counter(PUBLISHED, 15 * 40_000), False),
    Case("OutboxBacklog", "when a few events wait and nothing is published", gauge(BACKLOG, 100)
         | counter(PUBLISHED, 0), False),
    Case("OutboxBacklog", "when more wait and nothing is published", gauge(BACKLOG, 101) | counter(PUBLISHED, 0), True,
         JOB),
    Case("OutboxBacklog", "when no publisher is there", gauge(BACKLOG, 101), True, JOB),
    Case("OutboxBacklog", "after a burst that was published", gauge(BACKLOG, "0x30 900x1 0x30"), False, at="9m"),
    Case("PublisherDown", "above 15 s", gauge(HEARTBEAT, 16), True, JOB),
    Case("PublisherDown", "at 15 s", gauge(HEARTBEAT, 15), False),
    Case("ExtraPublisher", "with two for one shard", gauge(PUBLISHERS, 2), True, JOB),
    Case("ExtraPublisher", "with one for each", gauge(PUBLISHERS, 1), False),
    Case("ExtraPublisher", "for a moment", gauge(PUBLISHERS, "1x10 2x0 1x40"), False, at="2m45s"),
    Case("RunsUnclaimed", "when a run has waited for a worker for over two minutes",
         gauge(UNCLAIMED, 121, 'agent="golden"'), True, JOB | {"agent": "golden"}),
    Case("RunsUnclaimed", "at two minutes", gauge(UNCLAIMED, 120, 'agent="golden"'), False),
    Case("RunsUnclaimed", "while another agent's runs are claimed",
         gauge(UNCLAIMED, 0, 'agent="golden"') | gauge(UNCLAIMED, 121, 'agent="other"'), True,
         JOB | {"agent": "other"}),
    Case("RunsFailing", "when all runs of one agent fail", ended("golden", finished=10) | ended("triage", failed=1),
         True, JOB | {"agent": "triage"}),
    Case("RunsFailing", "when half of them do", ended("triage", failed=10, finished=10), False),
    Case("RunsFailing", "when a few have ended", {
        **gauge(ENDED, "0x20 19x40", 'agent="triage", outcome="failed"'),
        **gauge(ENDED, "0x60", 'agent="triage", outcome="finished"')}, False),
    Case("RunsFailing", "when nobody starts any", ended("triage"), False),
    Case("RunsFailing", "when callers cancel them", ended("triage", cancelled=10, failed=1), False),
    Case("RunStalled", "when a run of an agent is overdue", gauge(OVERDUE, 1, GOLDEN), True, STALLED | {"runs": "1+"}),
    Case("RunStalled", "when none is", gauge(OVERDUE, 0, GOLDEN), False),
    Case("RunStalled", "again, when a second one is", gauge(OVERDUE, "1x20 2x40", GOLDEN), True,
         STALLED | {"runs": "1+"}, more=(STALLED | {"runs": "2+"},)),
    Case("RunStalled", "again, when one of another agent is",
         gauge(OVERDUE, 1, GOLDEN) | gauge(OVERDUE, "0x20 1x40", 'agent="triage"'), True, STALLED | {"runs": "1+"},
         more=(JOB | {"agent": "triage", "runs": "1+"},)),
    Case("SequenceGap", "while a log has a gap", gauge(BROKEN, 1, DENSITY), True,
         JOB | {"invariant": "density"}, at="15s"),
    Case("SequenceGap", "after one was found and mended between two scrapes",
         gauge(BROKEN, 0, DENSITY) | gauge(FOUND, "0x20 1x40", DENSITY), True,
         JOB | {"invariant": "density"}, at="7m"),
    Case("SequenceGap", "while the observer that found one starts again",
         gauge(BROKEN, "1x20 _x16 1x20", DENSITY), True, JOB | {"invariant": "density"}, at="9m"),
    Case("SequenceGap", "after it was mended", gauge(BROKEN, "1x20 0x40", DENSITY), False),
    Case("SequenceGap", "when another invariant is broken", gauge(BROKEN, 0, DENSITY) | gauge(BROKEN, 1, TERMINAL),
         False),
    Case("InvariantBroken", "while a run breaks one", gauge(BROKEN, 1, TERMINAL), True,
         JOB | {"invariant": "single_terminal"}, at="15s"),
    Case("InvariantBroken", "when the log has a gap, which has an alert of its own",
         gauge(BROKEN, 1, DENSITY) | gauge(BROKEN, 0, TERMINAL), False),
    Case("EventLoopBlocked", "after three seconds in five minutes",
         gauge(BLOCKED, "0x20 3x40", 'node="Charge"'), True, JOB | {"node": "Charge"}, at="6m"),
    Case("EventLoopBlocked", "after one", gauge(BLOCKED, "0x20 1x40", 'node="Charge"'), False, at="6m"),
    Case("RunsKillWorkers", "when a run loses a second worker", gauge(LOSSES, "0x20 1x40"), True, JOB, at="6m"),
    Case("RunsKillWorkers", "when none does", gauge(LOSSES, "1x60"), False),
    Case("TimersOverdue", "when one has not fired for over ten seconds", gauge(TIMER, 11), True, JOB),
    Case("TimersOverdue", "at ten seconds", gauge(TIMER, 10), False),
    Case("TimersOverdue", "for a moment", gauge(TIMER, "0x10 60x2 0x40"), False, at="3m30s"),
    Case("ArtifactStoreFailing", "when it does not store", gauge(STORE, "0x20 1x40", 'operation="put"'), True,
         JOB | {"operation": "put"}, at="6m"),
    Case("ArtifactStoreFailing", "long after the last failure", gauge(STORE, 3, 'operation="read"'), False),
    Case("PartLagCritical", "when p95 is between 0.5 and 1 s", part_lag(1.0), True, JOB),
    Case("PartLagCritical", "when p95 is below 0.5 s", part_lag(0.5), False),
    Case("PartLagCritical", "before a minute has passed", part_lag(1.0), False, at="45s"),
    Case("PartLagCritical", "when a minute has few observations", part_lag(1.0, each=4), False),
    Case("PartLagCritical", "when nobody reads a part", part_lag(1.0, each=0), False),
    Case("PartLagPage", "when p95 is above 2.5 s", part_lag(5.0), True, JOB),
    Case("PartLagPage", "when p95 is below 2.5 s", part_lag(2.5), False),
    Case("PartLagPage", "when five minutes have few observations", part_lag(5.0, each=4), False),
    Case("RetentionBehind", "after 31 days", gauge(ARCHIVE, 2678401) | gauge(AFTER, 2592000), True, JOB),
    Case("RetentionBehind", "at 31 days", gauge(ARCHIVE, 2678400) | gauge(AFTER, 2592000), False),
    Case("RetentionBehind", "after 89 days, where runs stay for 90",
         gauge(ARCHIVE, 89 * 86400) | gauge(AFTER, 90 * 86400), False),
    Case("RetentionBehind", "after 92 days, where runs stay for 90",
         gauge(ARCHIVE, 92 * 86400) | gauge(AFTER, 90 * 86400), True, JOB),
    Case("RetentionBehind", "where nothing archives", {}, False),
    Case("DatabaseUnwell", "when few connections are left", gauge(USED, 0.91, CONNECTIONS), True,
         JOB | {"limit": "connections"}),
    Case("DatabaseUnwell", "at 90 %", gauge(USED, 0.9, CONNECTIONS), False),
    Case("DatabaseUnwell", "for a moment", gauge(USED, "0.1x10 1x2 0.1x40", CONNECTIONS), False, at="3m"),
    Case("DatabaseUnwell", "when the disk is nearly full", gauge(USED, 0.95, 'limit="size"'), True,
         JOB | {"limit": "size"}),
    Case("DatabaseAtRisk", "when a transaction is older than a quarter of an hour", gauge(TRANSACTION, 901), True,
         JOB | {"risk": "oldest_transaction"}),
    Case("DatabaseAtRisk", "at a quarter of an hour", gauge(TRANSACTION, 900), False),
    Case("DatabaseAtRisk", "when a standby lags for minutes", gauge(STANDBY, 61), True, JOB | {"risk": "standby_lag"}),
    Case("DatabaseAtRisk", "when a standby lags for a moment", gauge(STANDBY, "0x20 90x8 0x30"), False, at="7m"),
    Case("DatabaseAtRisk", "when a slot holds back more than 10 GiB", gauge(SLOT, 11e9), True,
         JOB | {"risk": "slot_retained"}),
    Case("DatabaseAtRisk", "when a slot holds back some", gauge(SLOT, 1e9), False),
    Case("PartitionsShort", "when a day has none", gauge("runwire_event_partitions_missing", 1), True, JOB),
    Case("PartitionsShort", "when all have one", gauge("runwire_event_partitions_missing", 0), False),
    Case("PartitionsShort", "until the hour at which they are made",
         gauge("runwire_event_partitions_missing", "0x20 1x10 0x30"), False, at="7m30s"),
]  # fmt: skip

STREAMS: Final = [
    Case("HttpConnectionsFull", "above 90 %", gauge("runwire_http_descriptors", 91)
         | gauge("runwire_http_descriptors_max", 100), True, INSTANCE),
    Case("HttpConnectionsFull", "at 90 %", gauge("runwire_http_descriptors", 90)
         | gauge("runwire_http_descriptors_max", 100), False),
    Case("HttpConnectionsFull", "without an API listener", gauge("runwire_http_descriptors", 0)
         | gauge("runwire_http_descriptors_max", 0), False),
    Case("SseChurn", "above 10", gauge("runwire_sse_run_reconnects_1m_max", 11), True, INSTANCE),
    Case("SseChurn", "at 10", gauge("runwire_sse_run_reconnects_1m_max", 10), False),
    Case("SseFlapping", "above 5", gauge("runwire_sse_client_reconnects_1m_max", 6), True, INSTANCE),
    Case("SseFlapping", "at 5", gauge("runwire_sse_client_reconnects_1m_max", 5), False),
    Case("SseHeartbeatMissed", "above 30 s", gauge(WRITE_AGE, 31) | gauge(PERIOD, 15), True, INSTANCE),
    Case("SseHeartbeatMissed", "at 30 s", gauge(WRITE_AGE, 30) | gauge(PERIOD, 15), False),
    Case("SseHeartbeatMissed", "above 30 s, with heartbeats each second", gauge(WRITE_AGE, 31) | gauge(PERIOD, 1), True,
         INSTANCE),
    Case("SseHeartbeatMissed", "at 46 s, with heartbeats of 45 s", gauge(WRITE_AGE, 46) | gauge(PERIOD, 45), False),
    Case("SseHeartbeatMissed", "above two heartbeats of 45 s", gauge(WRITE_AGE, 91) | gauge(PERIOD, 45), True,
         INSTANCE),
    Case("SseHeartbeatMissed", "above two minutes, however rare heartbeats are",
         gauge(WRITE_AGE, 121) | gauge(PERIOD, 3600), True, INSTANCE),
]  # fmt: skip

WATCHING: Final = [
    Case("TargetDown", "when scrapes fail", gauge("up", 0), True, INSTANCE),
    Case("TargetDown", "when they succeed", gauge("up", 1), False),
    Case("TargetDown", "when something else is down", {'up{job="shop", instance="b"}': "0x60"}, False),
    Case("RoleUnwell", "when a duty cannot be done", gauge("runwire_role_unwell", 1, 'role="worker"'), True,
         INSTANCE | {"role": "worker"}),
    Case("RoleUnwell", "when all can", gauge("runwire_role_unwell", 0, 'role="worker"'), False),
    Case("RoleUnwell", "in a failover", gauge("runwire_role_unwell", "0x36 2x3 0x20", 'role="worker"'), False,
         at="9m45s"),
    Case("ObserverStale", "when it stopped looking", gauge(SEEN, 0), True, JOB),
    Case("ObserverStale", "when nothing is scraped", {}, True),
    Case("ObserverStale", "when no process is one", gauge("up", 1), True),
    Case("ObserverStale", "when it is gone", gauge("up", "1x20 _x40") | gauge(SEEN, "0+15x20 _x40"), True, JOB),
    Case("ObserverStale", "when that of another job is gone", gauge(SEEN, "0+15x60") | {
        f'{SEEN}{{job="runwire-b", instance="b"}}': "0+15x20 _x40"}, True, {"job": "runwire-b"}),
    Case("ObserverStale", "while it looks", gauge(SEEN, "0+15x60"), False),
    Case("ObserverStale", "when one of two is cut off", gauge(SEEN, 0) | {
        f'{SEEN}{{job="runwire", instance="b"}}': "0+15x60"}, False),
    Case("ObserverStale", "when both are, and export nothing else", gauge(SEEN, 0) | {
        f'{SEEN}{{job="runwire", instance="b"}}': "0+15x20 300x40", **gauge(BACKLOG, "0x20 _x40")}, True, JOB),
    Case("TelemetryDropped", "when spans are given up", counter(DROPPED, 1, 'signal="traces"'), True,
         JOB | {"signal": "traces"}),
    Case("TelemetryDropped", "long after the last one", gauge(DROPPED, 7, 'signal="traces"'), False),
    Case("Watchdog", "always", {}, True),
]  # fmt: skip

API, UP = "runwire_http_descriptors_max", "up"
STARTS, KEYS = 'code="too_many_runs"', 'code="auth_unavailable"'
REFUSED, LOCKED_OUT = "runwire_requests_refused_total", "runwire_access_refused_total"
BORN = "process_start_time_seconds"

SERVICE_CASES: Final = [
    Case("ApiDown", "when the only one does not answer", gauge(UP, "1x20 0x40") | gauge(API, "100x20 _x40"), True, JOB,
         at="6m"),
    Case("ApiDown", "when it is no longer a target", gauge(API, "100x20 _x40"), True, JOB, at="6m"),
    Case("ApiDown", "when one of two answers", gauge(UP, "1x20 0x40") | gauge(API, "100x20 _x40") | {
        'up{job="runwire", instance="b"}': "1x60", f'{API}{{job="runwire", instance="b"}}': "100x60"}, False, at="6m"),
    Case("ApiDown", "in a restart of some seconds", gauge(UP, "1x20 0x1 1x40") | gauge(API, "100x20 _x1 100x40"),
         False, at="5m30s"),
    Case("ApiDown", "when a process without an API is down", gauge(UP, 0) | gauge(API, "0x20 _x40"), False, at="6m"),
    Case("StartsRefused", "when starts are refused all the time", counter(REFUSED, 1, STARTS), True, JOB, at="6m"),
    Case("StartsRefused", "after a few", gauge(REFUSED, "0x20 4x40", STARTS), False, at="6m"),
    Case("StartsRefused", "when streams are", counter(REFUSED, 1, 'code="too_many_streams"'), False),
    Case("AuthUnavailable", "when no token can be verified", counter(LOCKED_OUT, 1, KEYS), True, JOB, at="6m"),
    Case("AuthUnavailable", "after a few requests", gauge(LOCKED_OUT, "0x20 4x40", KEYS), False, at="6m"),
    Case("AuthUnavailable", "when callers have wrong tokens", counter(LOCKED_OUT, 1, 'code="credentials_invalid"'),
         False),
    Case("CrashLoop", "after three starts", gauge(BORN, "100x9 200x4 300x4 400x40"), True, INSTANCE, at="8m"),
    Case("CrashLoop", "after a deploy and a reboot", gauge(BORN, "100x9 200x4 300x40"), False, at="8m"),
    Case("CrashLoop", "when something else crashes",
         {f'{BORN}{{job="shop", instance="b"}}': "100x9 200x4 300x4 400x40"}, False, at="8m"),
]  # fmt: skip

OFFSET, BOUND = "runwire_clock_offset_seconds", "runwire_clock_offset_bound_seconds"

READY, ROLE = "runwire_ready", "runwire_role_info"
OTHER_API: Final = {'runwire_role_info{job="runwire", instance="b", role="api"}': "1x60"}

PROCESS_CASES: Final = [
    Case("ReadinessLost", "when the only API is not ready", gauge(ROLE, 1, 'role="api"') | gauge(READY, 0), True, JOB),
    Case("ReadinessLost", "once for all of its roles",
         gauge(ROLE, 1, 'role="api"') | gauge(ROLE, 1, 'role="worker"') | gauge(READY, 0), True, JOB),
    Case("ReadinessLost", "when another API is ready", gauge(ROLE, 1, 'role="api"') | gauge(READY, 0) | OTHER_API
         | {'runwire_ready{job="runwire", instance="b"}': "1x60"}, False),
    Case("ReadinessLost", "in a failover", gauge(ROLE, 1, 'role="api"') | gauge(READY, "1x20 0x7 1x40"), False,
         at="6m45s"),
    Case("ClockSkew", "when a clock is three seconds ahead", gauge(OFFSET, 3) | gauge(BOUND, 0.001), True, INSTANCE),
    Case("ClockSkew", "when one is twelve seconds behind", gauge(OFFSET, -12) | gauge(BOUND, 0.001), True, INSTANCE),
    Case("ClockSkew", "when it may be the way to PostgreSQL that is slow", gauge(OFFSET, 3) | gauge(BOUND, 2.5), False),
    Case("ClockSkew", "at half a second", gauge(OFFSET, 0.5) | gauge(BOUND, 0.001), False),
]  # fmt: skip

FAILED_ROUNDS, LAST_ROUND = "runwire_canary_failed_rounds", "runwire_canary_last_round_timestamp_seconds"

CANARY: Final = [
    Case("CanaryFailing", "after two bad rounds", gauge(FAILED_ROUNDS, 2), True, INSTANCE),
    Case("CanaryFailing", "after one", gauge(FAILED_ROUNDS, 1), False),
    Case("CanaryFailing", "when one of two canaries fails", gauge(FAILED_ROUNDS, 0) | {
        f'{FAILED_ROUNDS}{{job="runwire", instance="b"}}': "2x60"}, True, JOB | {"instance": "b"}),
    Case("CanarySilent", "when it is gone", gauge(LAST_ROUND, "0+15x4 _x80"), True, JOB, at="10m"),
    Case("CanarySilent", "when it hangs", gauge(LAST_ROUND, "0+15x4 60x80"), True, JOB, at="10m"),
    Case("CanarySilent", "while it walks, well or not", gauge(LAST_ROUND, "0+15x60") | gauge(FAILED_ROUNDS, 9), False),
    Case("CanarySilent", "when another one took over", gauge(LAST_ROUND, "0+15x4 _x80") | {
        f'{LAST_ROUND}{{job="runwire", instance="b"}}': "_x5 75+15x60"}, False),
    Case("CanarySilent", "where there is none", {}, False),
]  # fmt: skip

HOURS: Final = 150
"""Samples of the cases below, one a minute: two hours and a half."""


def appended(calls: float) -> dict[str, str]:
    """So many calls to append in a minute, each of which stores a hundred events."""
    events = counter("runwire_events_appended_total", 100 * calls, 'type="NodeStarted"', samples=HOURS)
    return events | counter("runwire_append_duration_seconds_count", calls, samples=HOURS)


def ended_runs(minutely: str, *, outcome: str, within: float = 1.0) -> dict[str, str]:
    """Runs that end in an outcome, as promtool notes a counter; all of them take `within` seconds."""
    series: dict[str, str] = {}
    for edge in [*map(str, RUN_BUCKETS_S), "+Inf"]:
        none = f"0x{HOURS}" if float(edge) < within else minutely
        series |= gauge("runwire_run_duration_seconds_bucket", none, f'outcome="{outcome}", le="{edge}"')
    return series | gauge("runwire_run_duration_seconds_count", minutely, f'outcome="{outcome}"')


def bad_share(slo: str, percent: float) -> dict[str, str]:
    """A service that does what the objective is about 1000 times a minute, this share of them badly."""
    good, bad = 1000 - 10 * percent, 10 * percent
    if slo == "Start":
        answers = {"2xx": good, "4xx": 100.0, "5xx": bad}
        series: dict[str, str] = {}
        for status, each in answers.items():
            series |= counter(
                "runwire_http_requests_total", each, f'route="startRun", status="{status}"', samples=HOURS
            )
        return series
    if slo == "Append":
        reason = 'reason="storage_unavailable"'
        return appended(good) | counter("runwire_append_failures_total", bad, reason, samples=HOURS)
    name, inside, outside, edges = {
        "Publish": ("runwire_publish_lag_seconds", 0.5, 1.0, LAG_BUCKETS_S),
        "Delivery": ("runwire_delivery_lag_seconds", 1.0, 2.5, LAG_BUCKETS_S),
        "Run": ("runwire_run_duration_seconds", 600.0, 3600.0, RUN_BUCKETS_S),
    }[slo]
    return histogram(name, {inside: good, outside: bad}, edges=edges, samples=HOURS)


def _objective(slo: str, label: str, *, fast: float, between: float, well: float) -> list[Case]:
    """Shares in percent: one that burns fast, one that only burns slowly, one that is within the objective."""
    told = JOB | {"slo": label}
    quick, slow = f"{slo}SloFastBurn", f"{slo}SloSlowBurn"
    return [
        Case(quick, f"when {fast} % are bad", bad_share(slo, fast), True, told, at="2h", every="1m"),
        Case(quick, f"when {between} % are bad", bad_share(slo, between), False, at="2h", every="1m"),
        Case(slow, f"when {between} % are bad", bad_share(slo, between), True, told, at="2h", every="1m"),
        Case(slow, f"when {well} % are bad", bad_share(slo, well), False, at="2h", every="1m"),
    ]


_REFUSED: Final = appended(100) | counter(
    "runwire_append_failures_total", 100, 'reason="fence_stale"', samples=HOURS
) | counter("runwire_append_failures_total", 0, 'reason="storage_unavailable"', samples=HOURS)  # fmt: skip
_NO_PARTITION: Final = appended(900) | counter(
    "runwire_append_failures_total", 100, 'reason="partition_missing"', samples=HOURS
) | counter("runwire_append_failures_total", 0, 'reason="storage_unavailable"', samples=HOURS)  # fmt: skip
_BETTER_AGAIN: Final = gauge("runwire_append_failures_total", f"0+200x60 {60 * 200}x90", 'reason="storage_unavailable"')

OBJECTIVES: Final = [
    *_objective("Start", "start", fast=2, between=0.5, well=0.05),
    *_objective("Publish", "publish", fast=20, between=5, well=0.5),
    *_objective("Delivery", "deliver", fast=20, between=5, well=0.5),
    *_objective("Append", "append", fast=2, between=0.5, well=0.05),
    *_objective("Run", "run", fast=10, between=2, well=0.2),
    Case("AppendSloFastBurn", "when the partition of a day is missing", _NO_PARTITION, True, JOB | {"slo": "append"},
         at="2h", every="1m"),
    Case("AppendSloFastBurn", "when callers are refused with good reason", _REFUSED, False, at="2h", every="1m"),
    Case("AppendSloFastBurn", "an hour after it got better",
         appended(1000) | _BETTER_AGAIN, False,
         at="2h", every="1m"),
    Case("RunSloFastBurn", "when runs fail, however soon",
         ended_runs(f"0+90x{HOURS}", outcome="finished") | ended_runs(f"0+10x{HOURS}", outcome="failed"), True,
         JOB | {"slo": "run"}, at="2h", every="1m"),
    Case("RunSloFastBurn", "when callers cancel runs",
         ended_runs(f"0+90x{HOURS}", outcome="finished") | ended_runs(f"0+10x{HOURS}", outcome="cancelled"), False,
         at="2h", every="1m"),
    Case("RunSloFastBurn", "when few runs end, and nine of them fail in an hour",
         ended_runs(f"0x60 {' '.join(str(n // 7) for n in range(7, 70))} 9x40", outcome="failed"), False,
         at="2h", every="1m"),
    Case("RunSloFastBurn", "when a scraper writes the edges of buckets in its own way",
         {series.replace('le="600.0"', 'le="600"'): values
          for series, values in (ended_runs(f"0+90x{HOURS}", outcome="finished")
                                 | ended_runs(f"0+10x{HOURS}", outcome="finished", within=3600.0)).items()}, True,
         JOB | {"slo": "run"}, at="2h", every="1m"),
    Case("AppendSloFastBurn", "while nothing at all happens",
         appended(0)
         | counter("runwire_append_failures_total", 0, 'reason="storage_unavailable"', samples=HOURS), False,
         at="2h", every="1m"),
]  # fmt: skip

CASES: Final = [*PIPELINE, *STREAMS, *SERVICE_CASES, *PROCESS_CASES, *CANARY, *WATCHING, *OBJECTIVES]
