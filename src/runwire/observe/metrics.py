"""Metrics that only the observer has: it reads them from PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from enum import StrEnum

from prometheus_client import Counter, Gauge

from runwire.clock import monotonic
from runwire.telemetry.exposition import Exposition
from runwire.telemetry.labels import OTHER, named_labels
from runwire.thresholds import OBSERVER_STALE_S, PUBLISHER_DEAD_S


class Invariant(StrEnum):
    """Invariants that the observer audits on the live database; docs/architecture/flow.md says where each is held."""

    DENSITY = "density"
    SINGLE_TERMINAL = "single_terminal"
    PUBLISHED_PREFIX = "published_prefix"
    CURSOR_WITHIN_LOG = "cursor_within_log"
    ARCHIVE_EQUALS_LOG = "archive_equals_log"


class DatabaseLimit(StrEnum):
    """Limits of PostgreSQL: connections, its queue of notifications, ids of transactions; the size, if one is set."""

    CONNECTIONS = "connections"
    NOTIFICATIONS = "notifications"
    TRANSACTION_IDS = "transaction_ids"
    SIZE = "size"


class ActiveState(StrEnum):
    PENDING = "pending"
    STARTED = "started"
    WAITING = "waiting"


class Age:
    """A gauge of seconds that grows by itself from one look to the next, so that no alert waits for the next look.

    Only ages above a look's period grow: a younger event is usually published before the next look, and a healthy
    service would seem to be seconds behind. Growth stops when the next look is overdue, since the age is unknown then.
    """

    def __init__(self, gauge: Gauge, *, period_s: float) -> None:
        self._period_s = period_s
        self._seen: tuple[float, float] | None = None
        gauge.set_function(self.seconds)

    def set(self, age_s: float | None) -> None:
        """The result of one look at the database; None: there is nothing that could have an age, which is shown as 0
        and stays so.
        """
        self._seen = None if age_s is None else (max(age_s, 0.0), monotonic())

    def seconds(self) -> float:
        if self._seen is None:
            return 0.0
        age_s, at = self._seen
        return age_s if age_s < self._period_s else age_s + min(monotonic() - at, 2 * self._period_s)


class ObserverMetrics:
    """The group of a process with the role `observer`, which looks every `period_s`.

    Gauges of one that has not looked at everything for OBSERVER_STALE_S are not exported: beside another observer,
    which does look, what this one saw last would win where the highest counts.
    """

    def __init__(self, out: Exposition, *, agents: Iterable[str] = (), period_s: float = 5.0) -> None:
        """`agents`: the names that this process knows, the values of the label agent beside `other`."""
        self.out = out
        self._looked_at = monotonic()
        known = self._known

        def age(gauge: Gauge) -> Age:
            return Age(gauge, period_s=period_s)

        self.backlog_events: Gauge = out.gauge(
            "outbox_backlog_events", "Events in the log that are not published.", unit="events", known=known
        )
        self.oldest_age = age(
            out.gauge(
                "outbox_oldest_age_seconds",
                "Age of the oldest event that is not published; 0 without one. Grows between looks.",
                known=known,
            )
        )
        self.publisher_heartbeat_age = age(
            out.gauge(
                "publisher_heartbeat_age_seconds",
                "Time since any publisher was last heard of, or since the observer began to look. Grows between looks.",
                known=known,
            )
        )
        self.publishers: Gauge = out.gauge(
            "publishers", f"Publishers heard of in the last {PUBLISHER_DEAD_S:g} s.", unit="publishers", known=known
        )
        self.publishers_per_shard: Gauge = out.gauge(
            "publishers_per_shard_max",
            "The most publishers that claim the same shard.",
            unit="publishers",
            known=known,
        )
        self.runs_active: Mapping[str, Gauge] = out.gauges(
            "runs_active", "Runs that are not over, by state.", unit="runs", known=known, state=ActiveState
        )
        run_oldest_age = out.gauges(
            "run_oldest_age_seconds",
            "Age of the oldest run in a state, 0 without one: of `pending` since its start call, of "
            "`started` since RunStarted without the time it waited, of `waiting` since it began this wait. "
            "Grows between looks.",
            known=known,
            state=ActiveState,
        )
        self.run_oldest_age: Mapping[str, Age] = {state: age(gauge) for state, gauge in run_oldest_age.items()}
        run_oldest_unclaimed = out.gauges(
            "run_oldest_unclaimed_seconds",
            "Time since the oldest run could be claimed that no worker has claimed: a pending run, one whose worker's "
            "lease ended, or a waiting one that has its signal; 0 without one. `other`: agents that the observer does "
            "not know. Grows between looks.",
            known=known,
            agent=[*named_labels(agents)[0], OTHER],
        )
        self.run_oldest_unclaimed: Mapping[str, Age] = {
            agent: age(gauge) for agent, gauge in run_oldest_unclaimed.items()
        }
        """By agent."""
        self.runs_overdue: Mapping[str, Gauge] = out.gauges(
            "runs_overdue",
            "Started runs that go on for longer than their agent expects, without the time they waited. `other`: "
            "agents that the observer does not know.",
            unit="runs",
            known=known,
            agent=[*named_labels(agents)[0], OTHER],
        )
        """By agent."""
        self.timers_overdue: Gauge = out.gauge(
            "timers_overdue", "Timers that were due more than a second ago.", unit="timers", known=known
        )
        self.timer_oldest_overdue = age(
            out.gauge(
                "timer_oldest_overdue_seconds",
                "Time since the oldest timer that has not fired was due; 0 without such a timer. Grows between looks.",
                known=known,
            )
        )
        self.signals_waiting: Gauge = out.gauge(
            "signals_waiting", "Signals that no run has taken yet.", unit="signals", known=known
        )
        self.violations: Mapping[str, Counter] = out.counters(
            "invariant_violations",
            "Runs found to break an invariant, each counted once.",
            unit="runs",
            invariant=Invariant,
        )
        self.violating_runs: Mapping[str, Gauge] = out.gauges(
            "invariant_violating_runs",
            "Runs that break an invariant as of the last look at them, without those that somebody has acknowledged. "
            "The database keeps them, so a restart of the observer changes nothing.",
            unit="runs",
            known=known,
            invariant=Invariant,
        )
        self.audit_coverage_age: Gauge = out.gauge(
            "audit_coverage_age_seconds",
            "Within this time the audit has looked at every run. The more runs there are, the longer it takes.",
            known=known,
        )
        self.partitions_missing: Gauge = out.gauge(
            "event_partitions_missing",
            "Days ahead that should have a partition of the log, and have none.",
            unit="days",
            known=known,
        )
        self.database_used: Mapping[str, Gauge] = out.gauges(
            "database_used_ratio",
            "Share of a limit of PostgreSQL that is used up: connections, the queue of notifications, of the ids of "
            "transactions the half that is safe to use before a vacuum, and the size, 0 where no limit is set.",
            unit="ratio",
            known=known,
            limit=DatabaseLimit,
        )
        self.database_size: Gauge = out.gauge(
            "database_size_bytes",
            "Size of the database on disk, as of one of the last twelve looks.",
            unit="bytes",
            known=known,
        )
        self.oldest_transaction: Gauge = out.gauge(
            "database_oldest_transaction_seconds",
            "Time since the oldest transaction of the database began, but those of pg_dump; 0 without one. Of other "
            "database roles where the observer's may read their statistics.",
            known=known,
        )
        self.standby_lag: Gauge = out.gauge(
            "database_standby_lag_seconds",
            "By how much the standby that is furthest behind lags; 0 without one.",
            known=known,
        )
        self.slot_retained: Gauge = out.gauge(
            "database_slot_retained_bytes",
            "WAL that the replication slot that is furthest behind holds back; 0 without one.",
            unit="bytes",
            known=known,
        )
        self.archive_oldest_pending: Gauge = out.gauge(
            "archive_oldest_pending_seconds",
            "Time since the oldest run that is not archived ended; 0 without such a run, or without an archive.",
            known=known,
        )
        self.last_success: Gauge = out.gauge(
            "observer_last_success_timestamp_seconds",
            "When the observer last looked at everything.",
            unit="seconds since the epoch",
        )

    def looked(self) -> None:
        """The observer has looked at everything, just now."""
        self._looked_at = monotonic()
        self.last_success.set(time.time())

    def _known(self) -> bool:
        return monotonic() - self._looked_at <= OBSERVER_STALE_S
