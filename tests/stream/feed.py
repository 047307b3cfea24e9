"""A run written and published by hand, so that a test decides what happens between which two steps."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from prometheus_client import Counter, Gauge

from runwire.bus import BusReader, BusWriter, Published
from runwire.db import Database
from runwire.model.event import StoredEvent
from runwire.settings import Settings
from runwire.stream import LogReader, StreamLimits, Streams
from runwire.stream.fanout import Sender, ThreadSender
from runwire.stream.log import Stretch
from runwire.telemetry.exposition import Exposition
from runwire.telemetry.metrics import StreamMetrics


def fresh_metrics() -> StreamMetrics:
    return StreamMetrics(Exposition())


def made_event(seq: int, *, last: bool = False, fn: str = "step.done") -> StoredEvent:
    kind = "RunStarted" if seq == 1 else "RunFinished" if last else "DebugTrace"
    return StoredEvent(seq, time.time_ns() // 1000, kind, None, fn if kind == "DebugTrace" else None)


def held() -> ThreadSender:
    """A sender whose threads send everything; the loop hears of it when a test calls `look` or `finish`."""
    return ThreadSender(few=0, listen=lambda _descriptor, _look: None)


class Feed:
    """Stands in for the append and publish stages of a run, one statement at a time."""

    def __init__(self, database: Database, bus: BusWriter, *, run_id: str = "run-1") -> None:
        self.database = database
        self.bus = bus
        self.run_id = run_id
        self.events: list[StoredEvent] = []
        self.published = 0

    async def start(self) -> Feed:
        """A pending run with an empty log."""
        await self.database.execute(
            "INSERT INTO runs (run_id, agent, request_hash, input) VALUES ($1, 'golden', '', '')", self.run_id
        )
        await self.database.execute(
            "INSERT INTO run_outbox (run_id, run_day) SELECT run_id, run_day FROM runs WHERE run_id = $1", self.run_id
        )
        return self

    async def append(self, count: int = 1, *, end: str | None = None, fn: str = "step.done") -> None:
        """Adds events; the last of them is RunFinished when `end` names the state the run ends in."""
        last_seq = len(self.events) + count
        seqs = range(len(self.events) + 1, last_seq + 1)
        fresh = [made_event(seq, last=end is not None and seq == last_seq, fn=fn) for seq in seqs]
        async with self.database.transaction() as transaction:
            await transaction.execute(
                "UPDATE runs SET last_seq = $2, state = 'started', started_at = coalesce(started_at, now())"
                " WHERE run_id = $1",
                self.run_id,
                last_seq,
            )
            if end is not None:
                await transaction.execute(
                    "UPDATE runs SET state = $2::text::run_state, finished_at = now() WHERE run_id = $1",
                    self.run_id,
                    end,
                )
            await transaction.execute(
                "INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source, name, fn)"
                " SELECT r.run_day, r.run_id, e.seq, e.ts_us, e.type::event_type, 'worker', NULL, e.fn"
                " FROM runs AS r, unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[])"
                " AS e (seq, ts_us, type, fn) WHERE r.run_id = $1",
                self.run_id,
                [event.seq for event in fresh],
                [event.ts_us for event in fresh],
                [event.type for event in fresh],
                [event.fn for event in fresh],
            )
        self.events += fresh

    async def to_bus(self, first: int, last: int) -> None:
        """The publisher's first step: the events are on the bus."""
        await self.bus.publish([Published(self.run_id, first, last, tuple(self.events[first - 1 : last]))])

    async def commit(self, upto: int) -> None:
        """The publisher's second step: PostgreSQL knows that they are."""
        self.published = upto
        if self.events[upto - 1].type == "RunFinished":
            await self.database.execute("DELETE FROM run_outbox WHERE run_id = $1", self.run_id)
        else:
            await self.database.execute("UPDATE run_outbox SET next_seq = $2 WHERE run_id = $1", self.run_id, upto + 1)

    async def publish(self) -> None:
        """Both steps for everything that is not published."""
        first, last = self.published + 1, len(self.events)
        await self.to_bus(first, last)
        await self.commit(last)

    async def add(self, count: int = 1, *, end: str | None = None) -> None:
        """Appends and publishes."""
        await self.append(count, end=end)
        await self.publish()

    async def lose_on_bus(self, count: int = 1, *, end: str | None = None) -> None:
        """Appends and publishes, but the bus loses the message."""
        await self.append(count, end=end)
        await self.commit(len(self.events))


class CountingReader(LogReader):
    """The real reader, which also says how often PostgreSQL was asked for events."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.pages = 0

    async def events(self, stretch: Stretch, *, limit: int) -> tuple[StoredEvent, ...]:
        self.pages += 1
        return await super().events(stretch, limit=limit)


@dataclass(frozen=True)
class Streaming:
    """A process's streams with their loops running, and what they count."""

    streams: Streams
    metrics: StreamMetrics
    reader: CountingReader


@asynccontextmanager
async def streaming(
    database: Database,
    bus: BusReader,
    *,
    sender: Sender | None = None,
    slots_a_tick: int | None = None,
    slice_bytes: int | None = None,
    **settings: Any,
) -> AsyncIterator[Streaming]:
    metrics = fresh_metrics()
    reader = CountingReader(database)
    chosen = Settings(**settings)
    limits = StreamLimits.of(chosen)
    if slice_bytes is not None:
        limits = replace(limits, slice_bytes=slice_bytes)
    async with Streams(
        bus=bus,
        reader=reader,
        settings=chosen,
        metrics=metrics,
        limits=limits,
        sender=sender,
        slots_a_tick=slots_a_tick,
    ) as streams:
        yield Streaming(streams, metrics, reader)


def count(metric: Counter | Gauge) -> float:
    """Its value."""
    return next(sample.value for family in metric.collect() for sample in family.samples)
