"""The observer: gauges about the whole pipeline, read from PostgreSQL, which work even if its parts are dead."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from runwire.clock import monotonic
from runwire.db import Database, load_sql
from runwire.duties import Duty
from runwire.errors import DatabaseUnavailable
from runwire.observe.audit import ArchiveAudit, Audit
from runwire.observe.metrics import DatabaseLimit, ObserverMetrics
from runwire.observe.settings import DEFAULTS, ObserverSettings
from runwire.telemetry.asyncpg_spans import suppressed
from runwire.telemetry.labels import OTHER
from runwire.telemetry.logs import get_logger
from runwire.thresholds import PUBLISHER_DEAD_S, RUN_EXPECTED_S

_SQL: Final = load_sql("runwire.observe", "observe.sql")
_LOOKS_PER_SIZE: Final = 12
_NOTHING_DECLARED: Final[Mapping[str, float]] = {}
_log = get_logger()


class Observer:
    """`observe` is its step, `run` its loop. Any number may run; each reports its own view."""

    def __init__(
        self,
        database: Database,
        metrics: ObserverMetrics,
        *,
        settings: ObserverSettings = DEFAULTS,
        alive_s: float = PUBLISHER_DEAD_S,
        expected_s: Mapping[str, float] = _NOTHING_DECLARED,
        days_ahead: int = 1,
        archives: bool = False,
        archive_audit: ArchiveAudit | None = None,
    ) -> None:
        """`expected_s`: seconds that runs of an agent are expected to take, by agent. `days_ahead`: days for which
        partitions are made. `archives`: this process or another archives runs. `archive_audit` checks the archived
        ones.
        """
        self._database = database
        self._metrics = metrics
        self._audit = Audit(database, metrics, archive=archive_audit)
        self._archives = archives
        self._expected_s = expected_s
        self._days_ahead = days_ahead
        self._period_s = settings.observe_s
        self._alive_s = alive_s
        self._heard_at = monotonic()
        self._size = 0
        self._size_max = settings.database_max_bytes
        self._looks = 0

    async def observe(self) -> None:
        """One step: every gauge, then the audit. Raises DatabaseUnavailable; gauges then stay, until they are stale."""
        metrics = self._metrics
        backlog = await self._database.fetchrow(_SQL["backlog"])
        publishers = await self._database.fetchrow(_SQL["publishers"], self._alive_s)
        shared = await self._database.fetchrow(_SQL["publishers_per_shard"], self._alive_s)
        active = await self._database.fetch(_SQL["active"])
        unclaimed = await self._database.fetch(_SQL["unclaimed"])
        expected = list(self._expected_s), list(self._expected_s.values())
        overdue = await self._database.fetch(_SQL["overdue"], *expected, RUN_EXPECTED_S)
        timers = await self._database.fetchrow(_SQL["timers"])
        pending_s = await self._database.fetchval(_SQL["archive_pending"], self._archives)
        missing = await self._database.fetchval(_SQL["partitions_missing"], self._days_ahead)
        if backlog is None or publishers is None or shared is None or timers is None:
            raise DatabaseUnavailable("an aggregate came back empty")
        metrics.backlog_events.set(backlog["events"])
        metrics.oldest_age.set(backlog["oldest_s"])
        if publishers["age_s"] is not None:
            self._heard_at = monotonic() - max(publishers["age_s"], 0.0)
        # None there: as old as the last one heard of, or as this watch, so that one that never starts is missed, too.
        metrics.publisher_heartbeat_age.set(monotonic() - self._heard_at)
        metrics.publishers.set(publishers["alive"])
        metrics.publishers_per_shard.set(shared["most"])
        self._set_unclaimed({row["agent"]: row["oldest_s"] for row in unclaimed})
        self._set_overdue({row["agent"]: row["runs"] for row in overdue})
        metrics.timers_overdue.set(timers["overdue"])
        overdue_s = timers["oldest_s"]
        metrics.timer_oldest_overdue.set(overdue_s if overdue_s is not None and overdue_s > 0 else None)
        metrics.signals_waiting.set(timers["signals"])
        metrics.partitions_missing.set(missing)
        await self._look_at_the_database()
        metrics.archive_oldest_pending.set(max(pending_s or 0.0, 0.0))
        for row in active:
            metrics.runs_active[row["state"]].set(row["runs"])
            metrics.run_oldest_age[row["state"]].set(row["oldest_s"])
        await self._audit.step()
        await self._database.execute(_SQL["forget_publishers"])
        metrics.looked()

    async def _look_at_the_database(self) -> None:
        metrics = self._metrics
        if self._looks % _LOOKS_PER_SIZE == 0:
            self._size = await self._database.fetchval(_SQL["database_size"])
        self._looks += 1
        used = await self._database.fetchrow(_SQL["database_used"])
        ages = await self._database.fetchrow(_SQL["database_ages"])
        if used is None or ages is None:
            raise DatabaseUnavailable("an aggregate came back empty")
        shares = {**used, DatabaseLimit.SIZE.value: self._size / self._size_max if self._size_max else 0.0}
        for limit in DatabaseLimit:
            metrics.database_used[limit].set(shares[limit.value])
        metrics.database_size.set(self._size)
        metrics.oldest_transaction.set(ages["oldest_transaction_s"])
        metrics.standby_lag.set(ages["standby_lag_s"])
        metrics.slot_retained.set(ages["slot_retained_bytes"])

    def _set_unclaimed(self, oldest_s: Mapping[str, float]) -> None:
        """By agent; those without a label of their own share one."""
        ages = self._metrics.run_oldest_unclaimed
        by_label: dict[str, float] = {}
        for agent, seconds in oldest_s.items():
            label = agent if agent in ages else OTHER
            by_label[label] = max(seconds, by_label.get(label, 0.0))
        for label, age in ages.items():
            age.set(by_label.get(label))

    def _set_overdue(self, runs: Mapping[str, int]) -> None:
        """By agent; those without a label of their own share one."""
        gauges = self._metrics.runs_overdue
        by_label = dict.fromkeys(gauges, 0)
        for agent, count in runs.items():
            by_label[agent if agent in gauges else OTHER] += count
        for label, gauge in gauges.items():
            gauge.set(by_label[label])

    async def run(self) -> None:
        """Observes until cancelled; while the database is away the last success grows old, which is an alert."""
        attempts = self._database.attempts(Duty.OBSERVE)
        with suppressed():
            while True:
                with attempts:
                    await self.observe()
                await asyncio.sleep(max(self._period_s, attempts.pause_s))
