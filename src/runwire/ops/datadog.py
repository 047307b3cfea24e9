"""Monitors and a dashboard for Datadog: the same levels, asked of the metrics as the Datadog Agent names them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from runwire.ops import durations
from runwire.ops.rules import Alert, anchor
from runwire.ops.thresholds import Level, Severity, Thresholds


class Over(StrEnum):
    """How samples of the time that a level covers are taken together.

    `lasts`: all of them are above the value. `mean`: their mean is. `added`: their sum is, for counts.
    """

    LASTS = "min"
    MEAN = "avg"
    ADDED = "sum"


@dataclass(frozen=True, slots=True)
class Asked:
    """A level of `threshold` as a query of Datadog's. `missing`: a series that is not there is a fault, too."""

    alert: str
    threshold: str
    severity: Severity
    query: str
    over: Over = Over.LASTS
    missing: bool = False
    at_once: bool = False
    """The second level of `page`."""


_PAGE, _CRITICAL, _WARNING = Severity.PAGE, Severity.CRITICAL, Severity.WARNING
_PUBLISH_LAG: Final = "p95:runwire.publish_lag_seconds{*}"
_PART_LAG: Final = "p95:runwire.part_lag_seconds{*}"
_UNPUBLISHED: Final = "max:runwire.outbox_oldest_age_seconds{*}"
# As in the recording rule: the backlog at the present rate of publishing, which counts as 100 a second at least.
_BACKLOG: Final = (
    "max:runwire.outbox_backlog_events{*} / "
    "clamp_min(default_zero(sum:runwire.events_published.count{*}.as_rate()), %d)"
)
# More failed runs than the share allows, by at least the share of the fewest runs that are judged: a small number of
# runs says nothing, and a monitor cannot have two conditions. Datadog adds counts up before it computes with them.
_FAILING: Final = (
    "sum:runwire.runs_finished.count{outcome:failed} by {agent}.as_count() - "
    "%g * sum:runwire.runs_finished.count{*} by {agent}.as_count() - %g"
)

ASKED: Final = (
    Asked("PublishLagWarning", "publish_lag", _WARNING, _PUBLISH_LAG),
    Asked("PublishLagCritical", "publish_lag", _CRITICAL, _PUBLISH_LAG),
    Asked("PublishLagPage", "publish_lag", _PAGE, _PUBLISH_LAG, Over.MEAN),
    Asked("OldestEventUnpublished", "oldest_unpublished", _PAGE, _UNPUBLISHED),
    Asked("OldestEventUnpublished", "oldest_unpublished", _PAGE, _UNPUBLISHED, at_once=True),
    Asked("OutboxBacklog", "outbox_backlog", _PAGE, _BACKLOG, Over.MEAN),
    Asked("PublisherDown", "publisher_heartbeat", _PAGE, "max:runwire.publisher_heartbeat_age_seconds{*}"),
    Asked("ExtraPublisher", "extra_publishers", _PAGE, "max:runwire.publishers_per_shard_max{*} - 1"),
    Asked("SequenceGap", "invariant", _PAGE, "max:runwire.invariant_violating_runs{invariant:density}"),
    Asked(
        "InvariantBroken",
        "invariant",
        _PAGE,
        "max:runwire.invariant_violating_runs{!invariant:density} by {invariant}",
    ),
    Asked("RunsUnclaimed", "runs_unclaimed", _PAGE, "max:runwire.run_oldest_unclaimed_seconds{*} by {agent}"),
    Asked("RunsFailing", "runs_failing", _PAGE, _FAILING, Over.ADDED),
    Asked("RunStalled", "run_stalled", _PAGE, "max:runwire.runs_overdue{*} by {agent}"),
    Asked(
        "EventLoopBlocked",
        "blocked_loop",
        _WARNING,
        "sum:runwire.event_loop_blocked_seconds.count{*} by {node}.as_count()",
        Over.ADDED,
    ),
    Asked(
        "RunsKillWorkers",
        "repeated_losses",
        _WARNING,
        "sum:runwire.run_losses_repeated.count{*}.as_count()",
        Over.ADDED,
    ),
    Asked("TimersOverdue", "timers_overdue", _CRITICAL, "max:runwire.timer_oldest_overdue_seconds{*}"),
    Asked("PartLagCritical", "part_lag", _CRITICAL, _PART_LAG),
    Asked("PartLagPage", "part_lag", _PAGE, _PART_LAG, Over.MEAN),
    Asked(
        "ArtifactStoreFailing",
        "artifact_store",
        _CRITICAL,
        "sum:runwire.artifact_store_failures.count{*} by {operation}.as_count()",
        Over.ADDED,
    ),
    Asked(
        "HttpConnectionsFull",
        "http_descriptors",
        _CRITICAL,
        "max:runwire.http_descriptors{*} by {endpoint} / max:runwire.http_descriptors_max{*} by {endpoint}",
    ),
    Asked("SseChurn", "sse_churn", _WARNING, "max:runwire.sse_run_reconnects_1m_max{*}"),
    Asked("SseFlapping", "sse_flapping", _WARNING, "max:runwire.sse_client_reconnects_1m_max{*}"),
    Asked("SseHeartbeatMissed", "sse_heartbeat", _CRITICAL, "max:runwire.sse_write_age_seconds_max{*} by {endpoint}"),
    Asked("DatabaseUnwell", "database_used", _PAGE, "max:runwire.database_used_ratio{*} by {limit}"),
    Asked("DatabaseAtRisk", "oldest_transaction", _CRITICAL, "max:runwire.database_oldest_transaction_seconds{*}"),
    Asked("DatabaseAtRisk", "standby_lag", _CRITICAL, "max:runwire.database_standby_lag_seconds{*}"),
    Asked("DatabaseAtRisk", "slot_retained", _CRITICAL, "max:runwire.database_slot_retained_bytes{*}"),
    Asked("PartitionsShort", "partitions_missing", _CRITICAL, "max:runwire.event_partitions_missing{*}"),
    Asked("RetentionBehind", "retention", _WARNING, "max:runwire.archive_oldest_pending_seconds{*}"),
    Asked(
        "StartsRefused",
        "starts_refused",
        _CRITICAL,
        "sum:runwire.requests_refused.count{code:too_many_runs}.as_count()",
        Over.ADDED,
    ),
    Asked(
        "AuthUnavailable",
        "auth_unavailable",
        _PAGE,
        "sum:runwire.access_refused.count{code:auth_unavailable}.as_count()",
        Over.ADDED,
    ),
    Asked(
        "ClockSkew",
        "clock_skew",
        _WARNING,
        "abs(max:runwire.clock_offset_seconds{*} by {endpoint}) - "
        "max:runwire.clock_offset_bound_seconds{*} by {endpoint}",
    ),
    Asked("CanaryFailing", "canary_failing", _PAGE, "max:runwire.canary_failed_rounds{*}"),
    Asked("CanarySilent", "canary_silent", _CRITICAL, "min:runwire.canary_last_round_age_seconds{*}"),
    Asked("RoleUnwell", "role_unwell", _CRITICAL, "max:runwire.role_unwell{*} by {endpoint,role}"),
    Asked(
        "ObserverStale",
        "observer_stale",
        _PAGE,
        "min:runwire.observer_last_success_age_seconds{*}",
        missing=True,
    ),
    Asked(
        "TelemetryDropped",
        "telemetry_dropped",
        _WARNING,
        "sum:runwire.telemetry_dropped.count{*} by {signal}.as_count()",
        Over.ADDED,
    ),
)
ELSEWHERE: Final = {
    "api_down": "the check `runwire.openmetrics.health` of the Agent",
    "target_down": "the check `runwire.openmetrics.health` of the Agent",
    "crash_loop": "the log line `server_started`: Datadog does not count changes of a gauge",
    "readiness_lost": "`/readyz`, as the load balancer asks it: a monitor cannot join a process and its roles",
}
"""Levels without a query, by threshold, and what watches instead."""
_PRIORITY: Final = {Severity.PAGE: 1, Severity.CRITICAL: 2, Severity.WARNING: 3}


def monitors(thresholds: Thresholds, alerts: tuple[Alert, ...]) -> list[dict[str, Any]]:
    """Bodies for POST /api/v1/monitor: a monitor for each level, and one for processes that do not answer."""
    made = [_monitor(asked, thresholds, _summary(asked.alert, alerts, asked.threshold)) for asked in ASKED]
    return [*made, _unreachable(thresholds, _summary("TargetDown", alerts))]


def dashboard(thresholds: Thresholds, alerts: tuple[Alert, ...]) -> dict[str, Any]:
    """The body for POST /api/v1/dashboard: a graph of each query, with lines where its monitors fire."""
    graphs: dict[str, list[Asked]] = {}
    for asked in ASKED:
        graphs.setdefault(_query(asked, thresholds), []).append(asked)
    return {
        "title": "runwire",
        "description": "Everything runwire is watched by. Generated from alerts/thresholds.yaml; changes are lost.",
        "layout_type": "ordered",
        "reflow_type": "auto",
        "widgets": [
            {
                "definition": {
                    "type": "timeseries",
                    "title": _summary(levels[0].alert, alerts, levels[0].threshold),
                    "requests": [{"q": query, "display_type": "line"}],
                    "markers": [_marker(asked, thresholds) for asked in levels],
                }
            }
            for query, levels in graphs.items()
        ],
    }


def text(document: list[dict[str, Any]] | dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _monitor(asked: Asked, thresholds: Thresholds, summary: str) -> dict[str, Any]:
    level = _level(asked, thresholds)
    value = _value(asked, level)
    return {
        "name": f"runwire {asked.alert}: {summary} ({_said(asked, thresholds)})",
        "type": "query alert",
        "query": f"{asked.over.value}(last_{_minutes(asked, level)}m):{_query(asked, thresholds)} > {_number(value)}",
        "message": _message(asked.alert, summary, thresholds),
        "tags": ["service:runwire", f"severity:{asked.severity.value}", f"alert:{asked.alert.lower()}"],
        "priority": _PRIORITY[asked.severity],
        "options": {
            "thresholds": {"critical": value},
            "on_missing_data": "show_and_notify_no_data" if asked.missing else "default",
            "require_full_window": False,
            "include_tags": True,
            "notify_audit": False,
        },
    }


def _unreachable(thresholds: Thresholds, summary: str) -> dict[str, Any]:
    """Agents check every 15 s: four in a row are the minute for which Prometheus waits."""
    return {
        "name": f"runwire TargetDown: {summary}",
        "type": "service check",
        "query": '"runwire.openmetrics.health".over("*").by("endpoint").last(5).count_by_status()',
        "message": _message("TargetDown", summary, thresholds),
        "tags": ["service:runwire", "severity:critical", "alert:targetdown"],
        "priority": _PRIORITY[Severity.CRITICAL],
        "options": {
            "thresholds": {"critical": 4, "ok": 1},
            "notify_no_data": True,
            "no_data_timeframe": 5,
            "include_tags": True,
        },
    }


def _message(alert: str, summary: str, thresholds: Thresholds) -> str:
    link = f"{thresholds.links.runbook}#{anchor(alert)}"
    return f"{{{{#is_alert}}}}{summary}: {{{{value}}}}.{{{{/is_alert}}}}\n[Runbook]({link})"


def _summary(name: str, alerts: tuple[Alert, ...], threshold: str = "") -> str:
    """Of alerts of one name that of the threshold, which is the value of a label."""
    named = [alert for alert in alerts if alert.name == name]
    return next((one for one in named if threshold in dict(one.labels).values()), named[0]).summary


def _said(asked: Asked, thresholds: Thresholds) -> str:
    """The level in words."""
    threshold = thresholds.named(asked.threshold)
    words = f"> {threshold.said_at_once()}, at once" if asked.at_once else threshold.said(asked.severity)
    # A monitor has the level's own value, without a setting that it may follow, and one of two levels.
    return words.split(", or ")[0]


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.10g}"


def _level(asked: Asked, thresholds: Thresholds) -> Level:
    second = thresholds.named(asked.threshold).page_at_once
    return second if asked.at_once and second is not None else thresholds.level(asked.threshold, asked.severity)


def _value(asked: Asked, level: Level) -> float:
    """Of a share the query has the level's value in it."""
    return 0.0 if asked.query is _FAILING else level.value


def _query(asked: Asked, thresholds: Thresholds) -> str:
    level = _level(asked, thresholds)
    if asked.query is _FAILING:
        return _FAILING % (level.value, level.value * (level.at_least or 0))
    return _BACKLOG % (level.rate_at_least or 1) if asked.query is _BACKLOG else asked.query


def _minutes(asked: Asked, level: Level) -> int:
    """Datadog looks back a minute at least."""
    spans = [durations.seconds(level.for_)]
    if asked.over is not Over.LASTS and level.window is not None:
        spans.append(durations.seconds(level.window))
    return max(1, *(math.ceil(span / 60) for span in spans))


def _marker(asked: Asked, thresholds: Thresholds) -> dict[str, str]:
    kind = "error dashed" if asked.severity is Severity.PAGE else "warning dashed"
    value = _value(asked, _level(asked, thresholds))
    return {"value": f"y = {_number(value)}", "display_type": kind, "label": f"{asked.alert} ({asked.severity.value})"}


def covered() -> Iterator[tuple[str, Severity]]:
    """The levels that have a monitor."""
    for asked in ASKED:
        yield asked.threshold, asked.severity
