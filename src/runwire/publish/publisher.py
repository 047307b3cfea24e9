"""One step of publishing: claim what is unpublished, put it on the bus in order, then move the cursors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter

from runwire.bus import BusWriter, Published
from runwire.clock import monotonic
from runwire.db import Database, Row, Troubles, load_sql
from runwire.db.translation import of_a_statement
from runwire.errors import BusUnavailable, DatabaseFailed
from runwire.model.event import StoredEvent
from runwire.publish.backlog import Backlog
from runwire.publish.settings import DEFAULTS, PublishSettings
from runwire.publish.shards import Shards
from runwire.telemetry.logs import LogEvent, get_logger
from runwire.telemetry.metrics import Metrics
from runwire.telemetry.spans import Spans
from runwire.telemetry.traceparent import sampled_trace_id

_SQL = load_sql("runwire.publish", "publish.sql")
_log = get_logger()

PARK_AT_ONCE = 500

SETTINGS = {
    # Look-ups by primary key stay the best plan however small the tables look when the statement is planned.
    "enable_seqscan": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    # A cursor that a crash of the server takes back means events on the bus a second time, which is no harm;
    # waiting for the disk would add its latency to every publish lag.
    "synchronous_commit": "off",
    # A process that hangs during a step holds the rows of its runs; another publisher must get them soon.
    "idle_in_transaction_session_timeout": "5s",
}

SWEEP_SETTINGS = {
    # The sweep reads all outbox rows that are not parked and looks each run up by key. It must never scan all runs,
    # however few the planner expects.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    # The next sweep repeats anything that a crash of the server takes back.
    "synchronous_commit": "off",
}


class Publisher:
    """Publishes the log. Several may run: the publisher of a run locks the run's outbox row.

    With `shards` it publishes only runs of shards it owns; else every run that no other publisher has locked.

    The bus has a batch before its cursors are committed: after a crash in between the batch goes out again, and
    subscribers drop what they have. So the bus gets every event at least once and each run's in order.
    """

    def __init__(
        self,
        database: Database,
        bus: BusWriter,
        *,
        metrics: Metrics,
        spans: Spans,
        publisher_id: str = "publisher",
        shards: Shards | None = None,
        settings: PublishSettings = DEFAULTS,
        park_after_s: float = 60.0,
    ) -> None:
        self._database = database
        self._session = database.session("publish", settings=SETTINGS)
        self._sweeper = database.session("publish sweep", settings=SWEEP_SETTINGS)
        self._bus = bus
        self._metrics = metrics
        self._spans = spans
        self._publisher_id = publisher_id
        self._shards = shards
        self._holder = shards.publisher_id if shards is not None else None
        self._step = asyncio.Lock()
        self._batch_events = settings.publish_batch_events
        self._batch_runs = settings.publish_batch_runs
        self._park_after_s = park_after_s
        self._backlog = Backlog(rest_max_s=settings.publish_backoff_max_s)
        self._in_flight: frozenset[str] = frozenset()
        self._taken_meanwhile: set[str] | None = None
        self._left_some = False

    @property
    def troubles(self) -> Troubles:
        """The process's troubles on the database from which it publishes."""
        return self._database.troubles

    @property
    def behind(self) -> bool:
        """Whether more events wait than one step can publish."""
        return self._left_some or len(self._backlog) > 2 * self._batch_runs

    @property
    def backlog_runs(self) -> int:
        """Runs this publisher knows to have unpublished events."""
        return len(self._backlog)

    def mark_dirty(self, run_ids: Iterable[str], *, by: str) -> list[str]:
        """Notes that runs have new events. `by` is `local`, `notify` or `poll` and is counted for runs not yet known.

        Returns the runs of other publishers.
        """
        others: list[str] = []
        if self._shards is not None:
            run_ids, others = self._shards.divide(run_ids)
        if self._backlog.add(run_ids):
            self._metrics.outbox_wakeups[by].inc()
        return others

    async def sweep(self) -> int:
        """Asks the database which runs have unpublished events, for when every hint was lost. Returns how many."""
        # Skips runs that are being published, or were published during the query.
        taken = self._taken_meanwhile = set(self._in_flight)
        try:
            rows = await self._sweeper.fetch(_SQL["unpublished"], 10_000, self._holder)
        finally:
            self._taken_meanwhile = None
        found = [row["run_id"] for row in rows if row["run_id"] not in taken]
        self.mark_dirty(found, by="poll")
        return len(found)

    async def park_idle(self) -> int:
        """Parks open runs in which nothing happens, some hundreds at a time. Returns how many.

        Sweeps and the observer look at all runs that are not parked, so those should be alive. An append wakes a run.
        """
        return len(await self._sweeper.fetch(_SQL["park"], self._park_after_s, PARK_AT_ONCE))

    async def publish_pending(self) -> int:
        """One step: how many events went out. Raises BusUnavailable or DatabaseUnavailable; the runs stay dirty."""
        async with self._step:
            return await self._publish_pending()

    async def let_go(self) -> None:
        """Returns when all steps that began before have ended."""
        async with self._step:
            pass

    async def _publish_pending(self) -> int:
        run_ids = self._backlog.take(self._batch_runs)
        if self._shards is not None:
            run_ids, _ = self._shards.divide(run_ids)
        if not run_ids:
            self._left_some = False
            return 0
        self._in_flight = frozenset(run_ids)
        if self._taken_meanwhile is not None:
            self._taken_meanwhile |= self._in_flight
        try:
            published = await self._publish(run_ids)
        except BusUnavailable:
            self._failed(run_ids)
            raise
        except DatabaseFailed as error:
            self._metrics.publish_failures["database"].inc()
            if of_a_statement(error):  # one of them may be the reason: they come back one by one
                self._backlog.failed(run_ids)
            else:
                self._backlog.add(run_ids)
            raise
        except Exception as error:
            _log.error(LogEvent.PUBLISH_FAILED, error_type=type(error).__name__, runs=len(run_ids))
            self._failed(run_ids)
            raise BusUnavailable(f"publishing failed: {type(error).__name__}") from error
        finally:
            self._in_flight = frozenset()
        self._backlog.published(run_ids)
        return published

    async def rest(self) -> None:
        """Ends the transaction that the last step began for the next one. Raises DatabaseUnavailable, which costs
        nothing.
        """
        async with self._step:
            await self._session.unchain()

    async def heartbeat(self, *, failing: str | None = None) -> None:
        """Records this publisher's heartbeat, with the code of its current error, if any.

        Raises DatabaseUnavailable.
        """
        await self._sweeper.fetch(_SQL["heartbeat"], self._publisher_id, failing)

    async def retire(self) -> None:
        """Records that this publisher stopped on purpose."""
        await self._sweeper.fetch(_SQL["retire"], self._publisher_id)

    async def aclose(self) -> None:
        await self._session.aclose()
        await self._sweeper.aclose()

    async def _publish(self, run_ids: list[str]) -> int:
        per_run = max(1, self._batch_events // len(run_ids))
        async with self._session.chained() as tx:
            rows = await tx.fetch(_SQL["claim"], run_ids, per_run, self._holder)
            read_at = monotonic()
            if not rows:
                self._left_some = False
                return 0
            messages = [_message(run_id, group) for run_id, group in groupby(rows, itemgetter(0))]
            with self._spans.send_events([m.traceparent for m in messages if m.traceparent], count=len(rows)):
                await self._bus.publish(messages)
            on_bus_us = rows[-1]["now_us"] + round((monotonic() - read_at) * 1e6)
        self._tell(messages, on_bus_us)
        longer = [m.run_id for m in messages if m.last_seq - m.first_seq + 1 == per_run]
        self._left_some = bool(longer)
        self._backlog.add(longer)
        return len(rows)

    def _failed(self, run_ids: list[str]) -> None:
        self._metrics.publish_failures["poisoned" if self._backlog.poisoned(run_ids) else "bus"].inc()
        self._backlog.failed(run_ids)

    def _tell(self, messages: Sequence[Published], on_bus_us: int) -> None:
        count = sum([len(message.events or ()) for message in messages])
        self._metrics.events_published.inc(count)
        self._metrics.publish_batch.observe(count)
        self._tell_lag(messages, on_bus_us)
        if _log.is_enabled_for(logging.DEBUG):
            for message in messages:
                for event in message.events or ():
                    lag_ms = (on_bus_us - event.ts_us) / 1000
                    _log.debug(
                        LogEvent.EVENTS_PUBLISHED, runId=message.run_id, seq=event.seq, type=event.type, lag_ms=lag_ms
                    )

    def _tell_lag(self, messages: Sequence[Published], on_bus_us: int) -> None:
        """Lags of sampled runs lead to their traces."""
        lag, others = self._metrics.publish_lag, list[float]()
        for message in messages:
            lags = [(on_bus_us - event.ts_us) / 1e6 for event in message.events or ()]
            trace_id = sampled_trace_id(message.traceparent)
            if trace_id is None:
                others += lags
                continue
            for lag_s in lags:
                lag.observe(lag_s, trace_id)
        lag.observe_many(others)


def _message(run_id: str, rows: Iterable[Row]) -> Published:
    run = list(rows)
    events = tuple([StoredEvent(row[1], row[2], row[3], row[4], row[5]) for row in run])
    return Published(run_id, events[0].seq, events[-1].seq, events, run[0]["traceparent"], run[-1]["outcome"])
