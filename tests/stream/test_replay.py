"""A replay is a session like any other: only its source is different."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from runwire.bus.memory import MemoryBus
from runwire.clock import monotonic
from runwire.db import Database
from runwire.errors import CursorPastTail, RunStillOpen, TooManyReplays
from runwire.stream import Cursor, NothingLeft, Session, Streams
from runwire.telemetry.metrics import DeliveryPath, DisconnectReason
from stream.feed import Feed, count, streaming
from stream.screen import Screen
from waiting import eventually

MAX = float("inf")


@pytest.fixture
async def feed(db: Database, bus: MemoryBus) -> Feed:
    """A run of ten events, closed. Five of them came an hour after the others."""
    feed = await Feed(db, bus).start()
    await feed.add(10, end="finished")
    await db.execute("UPDATE run_events SET ts_us = ts_us + 3600 * 1000000::bigint WHERE seq > 5")
    return feed


@asynccontextmanager
async def replaying(streams: Streams, screen: Screen, *, after: int = 0, speed: float = 1.0) -> AsyncIterator[Session]:
    async with streams.replay("run-1", cursor=Cursor(after), speed=speed) as session:
        assert not isinstance(session, NothingLeft)
        running = asyncio.create_task(session.run(screen.outlet))
        try:
            yield session
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_silent_replay_gets_a_heartbeat(db: Database, bus: MemoryBus, feed: Feed, chunked: bool) -> None:
    screen = Screen(chunked=chunked)
    async with streaming(db, bus) as at, replaying(at.streams, screen):
        await eventually(lambda: screen.seqs == [1, 2, 3, 4, 5])
        await at.streams.tend(monotonic() + 14)
        assert "heartbeat" not in screen.text
        await at.streams.tend(monotonic() + 16)
        assert screen.blocks[-1] == {"": "heartbeat"}


async def test_a_replay_is_rotated_and_the_client_goes_on_from_where_it_is(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    screen, again = Screen(), Screen()
    async with streaming(db, bus) as at:
        async with replaying(at.streams, screen) as session:
            await eventually(lambda: screen.seqs == [1, 2, 3, 4, 5])
            session.rotate_within(0.0)
            await at.streams.tend(monotonic())
            await eventually(lambda: session.reason is DisconnectReason.ROTATE)
            assert screen.retry_ms is not None
        async with replaying(at.streams, again, after=5) as session:
            await eventually(lambda: session.reason is DisconnectReason.TERMINAL)
            assert again.seqs == [6, 7, 8, 9, 10]
            assert again.end == {"runId": "run-1", "state": "finished", "lastSeq": 10}


async def test_a_replay_waits_for_its_client_and_ends_one_that_stays_slow(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    screen = Screen()
    screen.stuck = 10**6
    async with streaming(db, bus, sse_slow_s=0.2) as at, replaying(at.streams, screen, speed=MAX) as session:
        await eventually(lambda: session.reason is DisconnectReason.SLOW)
        assert screen.seqs == []
        assert screen.retry_ms is not None


async def test_a_drain_ends_replays_too(db: Database, bus: MemoryBus, feed: Feed) -> None:
    screen = Screen()
    async with streaming(db, bus) as at:
        draining: asyncio.Task[None] | None = None
        async with replaying(at.streams, screen) as session:
            await eventually(lambda: screen.seqs == [1, 2, 3, 4, 5])
            draining = asyncio.create_task(at.streams.drain())
            await eventually(lambda: session.reason is DisconnectReason.DRAIN)
        await asyncio.wait_for(draining, 5)
        assert count(at.metrics.sse_disconnects[DisconnectReason.DRAIN]) == 1


async def test_a_replay_is_counted_by_a_path_of_its_own_and_has_no_backfill(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    screen = Screen()
    async with streaming(db, bus) as at, replaying(at.streams, screen, speed=MAX) as session:
        await eventually(lambda: session.reason is DisconnectReason.TERMINAL)
        assert screen.seqs == list(range(1, 11))
        delivered = at.metrics.events_delivered
        assert (count(delivered[DeliveryPath.REPLAY]), count(delivered[DeliveryPath.BACKFILL])) == (10, 0)
        assert at.metrics.sse_backfill.count == 0


async def test_replays_are_bounded_and_refused_before_anything_is_sent(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    await Feed(db, bus, run_id="open").start()
    async with streaming(db, bus, replays_max=1) as at:
        with pytest.raises(RunStillOpen):
            await at.streams.replay("open", cursor=Cursor(0), speed=1).__aenter__()
        with pytest.raises(CursorPastTail):
            await at.streams.replay("run-1", cursor=Cursor(11), speed=1).__aenter__()
        async with at.streams.replay("run-1", cursor=Cursor(10), speed=1) as left:
            assert left == NothingLeft("run-1", "finished", 10)
        async with replaying(at.streams, Screen()):
            with pytest.raises(TooManyReplays):
                await at.streams.replay("run-1", cursor=Cursor(0), speed=1).__aenter__()
