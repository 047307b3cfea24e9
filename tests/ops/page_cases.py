"""For each alert that pages, and others with short windows, a fault that begins: at any scrape interval it is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from ops.alert_cases import INSTANCE, JOB, SERVICE
from runwire.content.part_metrics import PART_LAG_BUCKETS_S
from runwire.telemetry.metrics import LAG_BUCKETS_S, RUN_BUCKETS_S

FAULT_S: Final = 900.0
"""The fault begins so long after the first sample."""
At: TypeAlias = Callable[[float], float | None]
"""The value of a series by the seconds since the first sample; None: it is not there."""


@dataclass(frozen=True, slots=True)
class Page:
    """A fault that begins at FAULT_S. The alert is silent until then, and fires `by_s` later."""

    alert: str
    series: Mapping[str, At]
    by_s: float
    labels: Mapping[str, str] = field(default_factory=lambda: JOB)
    when: str = ""


def flat(value: float) -> At:
    return lambda _at: value


def step(before: float | None, after: float | None) -> At:
    return lambda at: before if at <= FAULT_S else after


def grows(before: float, after: float) -> At:
    """A counter, by its rates in a second."""
    return lambda at: float(int(before * min(at, FAULT_S) + after * max(at - FAULT_S, 0.0)))


def ages(at: float) -> float:
    """Something that is no longer done from the fault on: the seconds since."""
    return max(at - FAULT_S, 0.0)


def series(name: str, value: At, labels: str = "") -> dict[str, At]:
    return {f"{name}{{{', '.join(filter(None, (SERVICE, labels)))}}}": value}


def slower(name: str, edges: tuple[float, ...], *, good: float, bad: float, per_s: float = 5.0) -> dict[str, At]:
    """A histogram of values up to the edge `good`, and from the fault on up to `bad`."""
    found: dict[str, At] = {}
    for edge in (*edges, float("inf")):
        le = "+Inf" if edge == float("inf") else str(edge)
        before, after = (per_s if limit <= edge else 0.0 for limit in (good, bad))
        found |= series(f"{name}_bucket", grows(before, after), f'le="{le}"')
    return found | series(f"{name}_count", grows(per_s, per_s))


def _slo(slo: str) -> Mapping[str, str]:
    return JOB | {"slo": slo}


_PUBLISH: Final = slower("runwire_publish_lag_seconds", LAG_BUCKETS_S, good=0.01, bad=5.0)
_PARTS: Final = slower("runwire_part_lag_seconds", PART_LAG_BUCKETS_S, good=0.01, bad=5.0)
_FAILS: Final = 'reason="storage_unavailable"'

PAGES: Final = [
    Page("PublishLagWarning", _PUBLISH, 300),
    Page("PublishLagCritical", _PUBLISH, 240),
    Page("PublishLagPage", _PUBLISH, 330),
    Page("OldestEventUnpublished", series("runwire_outbox_oldest_age_seconds", lambda at: 4 * ages(at)), 60,
         JOB | {"level": "at_once"}, "at once"),
    Page("OldestEventUnpublished", series("runwire_outbox_oldest_age_seconds", step(0, 6)), 180,
         JOB | {"level": "sustained"}, "sustained"),
    Page("OutboxBacklog", series("runwire_outbox_backlog_events", step(0, 500)), 330),
    Page("PublisherDown", series("runwire_publisher_heartbeat_age_seconds", ages), 120),
    Page("ExtraPublisher", series("runwire_publishers_per_shard_max", step(1, 2)), 120),
    Page("RunsUnclaimed", series("runwire_run_oldest_unclaimed_seconds", ages, 'agent="golden"'), 240,
         JOB | {"agent": "golden"}),
    Page("RunsFailing", series("runwire_runs_finished_total", grows(1, 0), 'agent="golden", outcome="finished"')
         | series("runwire_runs_finished_total", grows(0, 1), 'agent="golden", outcome="failed"'), 660,
         JOB | {"agent": "golden"}),
    Page("RunStalled", series("runwire_runs_overdue", step(0, 1), 'agent="golden"'), 75,
         JOB | {"agent": "golden", "runs": "1+"}),
    Page("SequenceGap", series("runwire_invariant_violating_runs", step(0, 1), 'invariant="density"'), 75,
         JOB | {"invariant": "density"}),
    Page("SequenceGap", series("runwire_invariant_violations_total", step(0, 1), 'invariant="density"'), 135,
         JOB | {"invariant": "density"}, "mended between two scrapes"),
    Page("InvariantBroken", series("runwire_invariant_violating_runs", step(0, 1), 'invariant="single_terminal"'), 75,
         JOB | {"invariant": "single_terminal"}),
    Page("PartLagCritical", _PARTS, 240),
    Page("PartLagPage", _PARTS, 330),
    Page("DatabaseUnwell", series("runwire_database_used_ratio", step(0.5, 0.95), 'limit="connections"'), 150,
         JOB | {"limit": "connections"}),
    Page("ApiDown", series("up", step(1, 0)) | series("runwire_http_descriptors_max", step(100, None)), 150),
    Page("CanaryFailing", series("runwire_canary_failed_rounds", step(0, 2)), 75, INSTANCE),
    Page("ReadinessLost", series("runwire_ready", step(1, 0)) | series("runwire_role_info", flat(1), 'role="api"'),
         210),
    Page("AuthUnavailable", series("runwire_access_refused_total", grows(0, 0.2), 'code="auth_unavailable"'), 180),
    Page("ObserverStale", series("runwire_observer_last_success_timestamp_seconds", lambda at: min(at, FAULT_S)), 180),
    Page("StartSloFastBurn", series("runwire_http_requests_total", grows(5, 0), 'route="startRun", status="2xx"')
         | series("runwire_http_requests_total", grows(0, 5), 'route="startRun", status="5xx"'), 600, _slo("start")),
    Page("PublishSloFastBurn", _PUBLISH, 900, _slo("publish")),
    Page("DeliverySloFastBurn", slower("runwire_delivery_lag_seconds", LAG_BUCKETS_S, good=0.01, bad=5.0), 900,
         _slo("deliver")),
    Page("AppendSloFastBurn", series("runwire_append_duration_seconds_count", grows(5, 0))
         | series("runwire_append_failures_total", grows(0, 5), _FAILS), 600, _slo("append")),
    Page("RunSloFastBurn", slower("runwire_run_duration_seconds", RUN_BUCKETS_S, good=10.0, bad=3600.0, per_s=0.2), 900,
         _slo("run")),
]  # fmt: skip
