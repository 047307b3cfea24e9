"""What only the observer can tell: it reads it from PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from prometheus_client import Counter, Gauge

from runwire.telemetry.exposition import Exposition


class Invariant(StrEnum):
    """What is audited on the live database; docs/architecture/flow.md says where each is held."""

    DENSITY = "density"
    SINGLE_TERMINAL = "single_terminal"
    PUBLISHED_PREFIX = "published_prefix"
    CURSOR_WITHIN_LOG = "cursor_within_log"


class ActiveState(StrEnum):
    PENDING = "pending"
    STARTED = "started"
    WAITING = "waiting"


class ObserverMetrics:
    """The group of a process with the role `observer`."""

    def __init__(self, out: Exposition) -> None:
        self.backlog_events: Gauge = out.gauge("outbox_backlog_events", "Events in the log that are not published.")
        self.oldest_age: Gauge = out.gauge(
            "outbox_oldest_age_seconds", "Age of the oldest event that is not published; 0 without one."
        )
        self.publisher_heartbeat_age: Gauge = out.gauge(
            "publisher_heartbeat_age_seconds", "Time since any publisher was last heard of."
        )
        self.publishers: Gauge = out.gauge("publishers", "Publishers heard of in the last 15 s.")
        self.runs_active: Mapping[str, Gauge] = out.gauges(
            "runs_active", "Runs that are not over, by state.", state=ActiveState
        )
        self.run_oldest_age: Mapping[str, Gauge] = out.gauges(
            "run_oldest_age_seconds",
            "Age of the oldest run in a state; of `started`, since RunStarted.",
            state=ActiveState,
        )
        self.violations: Mapping[str, Counter] = out.counters(
            "invariant_violations", "Runs found to break an invariant, each counted once.", invariant=Invariant
        )
        self.violating_runs: Mapping[str, Gauge] = out.gauges(
            "invariant_violating_runs", "Runs that break an invariant as of the last look at them.", invariant=Invariant
        )
        self.last_success: Gauge = out.gauge(
            "observer_last_success_timestamp_seconds", "When the observer last looked at everything."
        )
