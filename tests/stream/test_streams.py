"""Streams as clients see them, with every loop running."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from runwire.bus.memory import MemoryBus
from runwire.bus.postgres import PostgresBusReader, PostgresBusWriter
from runwire.clock import monotonic
from runwire.db import Database
from runwire.errors import CursorPastTail, DatabaseUnavailable, RunNotFound
from runwire.settings import Settings
from runwire.stream import Cursor, LogReader, NothingLeft, Streams
from runwire.stream.fanout import ThreadSender
from runwire.stream.log import Position
from runwire.telemetry.metrics import ConnectKind, DeliveryPath, DisconnectReason
from stream.feed import Feed, count, fresh_metrics, held, streaming
from stream.screen import Connected, Screen, watching
from waiting import eventually


@pytest.fixture
async def feed(db: Database, bus: MemoryBus) -> Feed:
    return await Feed(db, bus).start()


async def test_a_stream_is_backfill_then_live_then_the_end(db: Database, bus: MemoryBus, feed: Feed) -> None:
    await feed.add(3)
    async with streaming(db, bus) as at, watching(at.streams, "run-1") as screen:
        await eventually(lambda: screen.seqs == [1, 2, 3])
        await feed.add(2)
        await feed.add(end="finished")
        await eventually(lambda: screen.reason)
        assert screen.seqs == [1, 2, 3, 4, 5, 6]
        assert screen.end == {"runId": "run-1", "state": "finished", "lastSeq": 6}
        assert screen.reason is DisconnectReason.TERMINAL


async def test_what_is_sent_is_the_event_as_clients_know_it(db: Database, bus: MemoryBus, feed: Feed) -> None:
    await feed.add(1)
    async with streaming(db, bus) as at, watching(at.streams, "run-1") as screen:
        await feed.add(1)
        await eventually(lambda: len(screen.seqs) == 2)
        shown = [json.loads(block["data"]) for block in screen.blocks if "data" in block]
        assert shown[1] == {
            "runId": "run-1",
            "seq": 2,
            "ts": feed.events[1].ts_us // 1000,
            "type": "DebugTrace",
            "v": 1,
            "source": "outbox",
            "fn": "step.done",
        }


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_closed_run_is_sent_whole_with_its_end(db: Database, bus: MemoryBus, feed: Feed, chunked: bool) -> None:
    await feed.add(2500, end="failed")
    screen = Screen(chunked=chunked)
    async with streaming(db, bus) as at, watching(at.streams, "run-1", after=7, screen=screen):
        await eventually(lambda: screen.reason)
        assert screen.seqs == list(range(8, 2501))
        assert screen.end == {"runId": "run-1", "state": "failed", "lastSeq": 2500}


async def test_a_client_that_has_all_of_a_closed_run_is_told_that_nothing_is_left(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    await feed.add(4, end="cancelled")
    async with streaming(db, bus) as at, at.streams.attach("run-1", cursor=Cursor(4, resumed=True)) as session:
        assert session == NothingLeft("run-1", "cancelled", 4)
        assert count(at.metrics.sse_connects[ConnectKind.RESUME]) == 0


async def test_a_pending_run_is_streamed_from_its_first_event(db: Database, bus: MemoryBus, feed: Feed) -> None:
    async with streaming(db, bus) as at, watching(at.streams, "run-1") as screen:
        await eventually(lambda: count(at.metrics.sse_connections) == 1)
        await feed.add(1)
        await eventually(lambda: screen.seqs == [1])


async def test_an_unknown_run_and_a_cursor_past_the_tail_are_refused_before_anything_is_sent(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    await feed.add(2)
    async with streaming(db, bus) as at:
        with pytest.raises(RunNotFound):
            await at.streams.attach("nowhere", cursor=Cursor(0)).__aenter__()
        with pytest.raises(CursorPastTail):
            await at.streams.attach("run-1", cursor=Cursor(3)).__aenter__()
        await feed.add(1)
        async with at.streams.attach("run-1", cursor=Cursor(3)) as session:
            assert not isinstance(session, NothingLeft)
            assert session.prelude == b"retry: 2000\n\nid: 3\n\n"


async def test_a_run_that_was_unknown_can_be_streamed_once_it_is_there(db: Database, bus: MemoryBus) -> None:
    async with streaming(db, bus) as at:
        with pytest.raises(RunNotFound):
            await at.streams.attach("run-1", cursor=Cursor(0)).__aenter__()
        feed = await Feed(db, bus).start()
        async with watching(at.streams, "run-1") as screen:
            await feed.add(2)
            await eventually(lambda: screen.seqs == [1, 2])


async def test_many_clients_at_many_places_each_get_every_later_event_once(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    """Clients come and go at random cursors while events come live, late, twice or not at all by the bus."""
    dice = random.Random(7)
    await feed.add(40)
    async with streaming(db, bus, sse_ring_events=16, sse_silence_s=0.2) as at, asyncio.TaskGroup() as group:

        async def client(after: int, leaves_at: int | None) -> None:
            async with watching(at.streams, "run-1", after=after) as screen:
                if leaves_at is None:
                    await eventually(lambda: screen.reason, within_s=20)
                    assert screen.end == {"runId": "run-1", "state": "finished", "lastSeq": 241}
                    assert screen.seqs == list(range(after + 1, 242))
                else:
                    await eventually(lambda: screen.seqs and screen.seqs[-1] >= leaves_at, within_s=20)
                    assert screen.seqs == list(range(after + 1, screen.seqs[-1] + 1))

        for _ in range(100):
            for _ in range(dice.randrange(3)):
                last = len(feed.events)
                leaves_at = dice.choice([None, None, min(last + 5, 240)])
                group.create_task(client(dice.randrange(last), leaves_at))
            await feed.append(2)
            if (fate := dice.random()) < 0.6:
                await feed.publish()
            elif fate < 0.8:
                await feed.commit(len(feed.events))
            else:
                await feed.publish()
                await feed.to_bus(dice.randrange(1, len(feed.events)), len(feed.events))
        await feed.add(1, end="finished")


async def test_a_watch_subscribes_before_it_reads_where_the_run_is(db: Database, bus: MemoryBus, feed: Feed) -> None:
    await feed.add(1)

    class Slow(LogReader):
        async def position(self, run_id: str) -> Position:
            position = await super().position(run_id)
            await feed.add(1)  # while the answer is on its way
            return position

    settings = Settings(sse_silence_s=3600)
    streams = Streams(bus=bus, reader=Slow(db), settings=settings, metrics=fresh_metrics())
    async with streams, watching(streams, "run-1") as screen:
        await eventually(lambda: screen.seqs == [1, 2])


async def test_messages_that_the_bus_loses_arrive_by_silence(db: Database, bus: MemoryBus, feed: Feed) -> None:
    async with streaming(db, bus, sse_silence_s=0.2) as at, watching(at.streams, "run-1") as screen:
        await eventually(lambda: count(at.metrics.sse_connections) == 1)
        await feed.add(1)
        await feed.lose_on_bus(2, end="finished")
        await eventually(lambda: screen.reason)
        assert screen.seqs == [1, 2, 3]
        assert screen.end is not None


async def test_a_bus_that_only_hints_streams_the_same(db: Database, database: str) -> None:
    reader = PostgresBusReader(Database(database))
    listening = asyncio.create_task(reader.listener.run())
    await reader.listener.connected.wait()
    session = db.session("publisher")
    feeds = [await Feed(db, PostgresBusWriter(session), run_id=f"run-{i}").start() for i in range(5)]
    try:
        async with streaming(db, reader) as at, asyncio.TaskGroup() as group:

            async def client(run_id: str) -> None:
                async with watching(at.streams, run_id) as screen:
                    await eventually(lambda: screen.reason)
                    assert screen.seqs == list(range(1, 14))

            for feed in feeds:
                group.create_task(client(feed.run_id))
            for _ in range(6):
                for feed in feeds:
                    await feed.add(2)
            for feed in feeds:
                await feed.add(1, end="finished")
        assert count(at.metrics.sse_gaps_repaired) == 0
    finally:
        await session.aclose()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def test_a_client_that_lags_catches_up_and_its_buffer_never_grows_meanwhile(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    async with streaming(db, bus, sse_ring_events=10) as at, watching(at.streams, "run-1") as screen:
        await feed.add(1)
        await eventually(lambda: screen.seqs == [1])
        screen.stuck = 10**6
        before = len(screen.writes)
        for _ in range(30):
            await feed.add(10)
        assert len(screen.writes) == before
        screen.stuck = 0
        await eventually(lambda: len(screen.seqs) == 301)
        await feed.add(1)
        await eventually(lambda: screen.seqs == list(range(1, 303)))
        assert screen.reason is None


async def test_a_client_that_stays_slow_is_closed_and_can_resume(db: Database, bus: MemoryBus, feed: Feed) -> None:
    async with streaming(db, bus, sse_slow_s=0.2) as at, watching(at.streams, "run-1") as screen:
        await feed.add(1)
        await eventually(lambda: screen.seqs == [1])
        screen.stuck = 10**6
        await feed.add(5)
        await eventually(lambda: screen.reason)
        assert screen.reason is DisconnectReason.SLOW
        assert screen.seqs == [1]
        assert screen.retry_ms is not None
        await eventually(lambda: count(at.metrics.sse_disconnects[DisconnectReason.SLOW]) == 1)
        async with watching(at.streams, "run-1", after=1) as again:
            await eventually(lambda: again.seqs == [2, 3, 4, 5, 6])


async def test_a_backfill_waits_for_its_client(db: Database, bus: MemoryBus, feed: Feed) -> None:
    await feed.add(3000)
    screen = Screen()
    screen.stuck = 10**6
    async with streaming(db, bus) as at, watching(at.streams, "run-1", screen=screen):
        await eventually(lambda: count(at.metrics.sse_connections) == 1)
        await eventually(lambda: at.reader.pages == 1)
        assert screen.writes == []
        screen.stuck = 0
        await eventually(lambda: len(screen.seqs) == 3000)
        assert screen.seqs == list(range(1, 3001))


async def test_drain_ends_every_stream_resumable_and_spread(db: Database, bus: MemoryBus, feed: Feed) -> None:
    await feed.add(2)
    async with streaming(db, bus) as at:
        async with watching(at.streams, "run-1") as live, watching(at.streams, "run-1") as stuck:
            await eventually(lambda: live.seqs == stuck.seqs == [1, 2])
            stuck.stuck = 10**6
            await feed.add(1)
            await asyncio.wait_for(at.streams.drain(), 5)
            assert (live.reason, stuck.reason) == (DisconnectReason.DRAIN, DisconnectReason.DRAIN)
            assert live.seqs == [1, 2, 3]
            assert live.retry_ms is not None
            assert 500 <= live.retry_ms <= 2500
        async with watching(at.streams, "run-1", after=3) as late:
            await eventually(lambda: late.reason is DisconnectReason.DRAIN)
        assert count(at.metrics.sse_disconnects[DisconnectReason.DRAIN]) == 3


async def test_old_streams_are_rotated_at_ages_that_differ(db: Database, bus: MemoryBus, feed: Feed) -> None:
    await feed.add(1)
    async with streaming(db, bus, sse_max_age_s=1000) as at, asyncio.TaskGroup() as group:
        screens = [Screen() for _ in range(20)]

        async def client(screen: Screen) -> None:
            async with watching(at.streams, "run-1", screen=screen):
                await eventually(lambda: screen.reason)

        for screen in screens:
            group.create_task(client(screen))
        await eventually(lambda: all(screen.seqs == [1] for screen in screens))
        now = monotonic()
        await at.streams.tend(now + 890)
        await asyncio.sleep(0)
        assert [screen.reason for screen in screens] == [None] * 20
        await at.streams.tend(now + 1000)
        await eventually(lambda: 0 < sum(screen.reason is not None for screen in screens) < 20)
        await at.streams.tend(now + 1101)
        await eventually(lambda: all(screen.reason is DisconnectReason.ROTATE for screen in screens))
        assert all(screen.retry_ms is not None for screen in screens)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_silent_stream_gets_a_heartbeat_which_is_a_write(
    db: Database, bus: MemoryBus, feed: Feed, chunked: bool
) -> None:
    await feed.add(1)
    screen = Screen(chunked=chunked)
    async with streaming(db, bus) as at, watching(at.streams, "run-1", screen=screen):
        await eventually(lambda: screen.seqs == [1])
        now = monotonic()
        await at.streams.tend(now + 14)
        assert len(screen.writes) == 1
        await at.streams.tend(now + 16)
        assert screen.blocks[-1] == {"": "heartbeat"}
        assert at.streams.write_age_s(now + 17) < 2


async def test_an_event_follows_a_heartbeat_that_has_not_left_the_transport_yet(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    screen = Connected()
    async with streaming(db, bus) as at, watching(at.streams, "run-1", screen=screen):
        for n in range(1, 4):
            await feed.add(1)
            await eventually(lambda: len(screen.seqs) == n)  # noqa: B023  # asked before the next tick
            await at.streams.tend(monotonic() + 16)
            assert screen.held  # all but a byte of the heartbeat
        assert screen.seqs == [1, 2, 3]
        assert [block for block in screen.blocks if block == {"": "heartbeat"}] == [{"": "heartbeat"}] * 3
    screen.close()


@asynccontextmanager
async def under_way(db: Database, bus: MemoryBus, feed: Feed) -> AsyncIterator[tuple[Streams, ThreadSender, Connected]]:
    """An event is with the threads, one of which has met a full socket, and they were not heard of yet."""
    screen, sender = Connected(full=True), held()
    async with streaming(db, bus, sender=sender) as at, watching(at.streams, "run-1", screen=screen):
        await eventually(lambda: count(at.metrics.sse_connections) == 1)
        await feed.add(1)
        await eventually(lambda: sender.under_way)
        yield at.streams, sender, screen
    screen.close()


async def test_the_end_of_a_stream_waits_for_what_is_under_way(db: Database, bus: MemoryBus, feed: Feed) -> None:
    async with under_way(db, bus, feed) as (streams, sender, screen):
        draining = asyncio.create_task(streams.drain())
        for _ in range(3):
            await asyncio.sleep(0)
        await feed.add(1)  # which is not for it any more
        assert screen.held == b""
        assert sender.under_way == 1
        sender.finish()
        await asyncio.wait_for(draining, 5)
        assert screen.seqs == [1]
        assert screen.retry_ms is not None


async def test_a_run_that_is_silent_gets_its_heartbeats_while_the_threads_write_to_others(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    async with under_way(db, bus, feed) as (streams, sender, _):
        await Feed(db, bus, run_id="silent").start()
        async with watching(streams, "silent") as silent:
            await eventually(lambda: len(streams.sessions) == 2)
            await streams.tend(monotonic() + 20)
            assert sender.under_way
            assert silent.blocks == [{"": "heartbeat"}]
        sender.finish()


async def test_a_client_that_takes_nothing_of_all_that_is_under_way_has_no_more_buffered_than_the_bound(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    screen, sender = Connected(full=True), held()
    async with (
        streaming(db, bus, sender=sender, sse_slow_bytes=65_536) as at,
        watching(at.streams, "run-1", screen=screen),
    ):
        await eventually(lambda: count(at.metrics.sse_connections) == 1)
        await feed.append(2000)
        await feed.to_bus(1, 2000)
        await eventually(lambda: sender.full)
        while sender.under_way:
            sender.finish()
        assert 65_536 // 2 < len(screen.held) <= 65_536
    screen.close()


async def test_a_heartbeat_waits_for_what_is_under_way(db: Database, bus: MemoryBus, feed: Feed) -> None:
    async with under_way(db, bus, feed) as (streams, sender, screen):
        now = monotonic()
        await streams.tend(now + 20)
        assert screen.held == b""
        assert streams.write_age_s(now + 20) > 15  # a thread that is not heard of shows
        sender.finish()
        await streams.tend(now + 20)
        assert screen.seqs == [1]
        assert screen.blocks[-1] == {"": "heartbeat"}


async def test_a_client_that_fell_short_is_written_to_by_its_socket_again_when_its_transport_is_empty(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    async with under_way(db, bus, feed) as (_, sender, screen):
        sender.finish()
        assert screen.held
        assert screen.seqs == [1]  # reads it, and the transport is empty
        by_transport = screen.asked_to_write
        await feed.add(1)
        await eventually(lambda: sender.under_way)
        sender.finish()
        assert screen.seqs == [1, 2]
        assert screen.asked_to_write == by_transport


async def test_events_postpone_the_heartbeat(db: Database, bus: MemoryBus, feed: Feed) -> None:
    async with streaming(db, bus) as at, watching(at.streams, "run-1") as screen:
        await eventually(lambda: count(at.metrics.sse_connections) == 1)
        before = monotonic()
        await feed.add(1)
        await eventually(lambda: screen.seqs == [1])
        await at.streams.tend(before + 15)
        assert len(screen.writes) == 1
        await at.streams.tend(monotonic() + 15)
        assert len(screen.writes) == 2


async def test_a_stream_that_got_nothing_for_long_shows_its_age_and_so_does_a_watch_that_stopped(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    async with streaming(db, bus, sse_slow_s=100) as at:
        assert at.streams.write_age_s(monotonic()) == 0
        async with watching(at.streams, "run-1") as screen:
            await eventually(lambda: count(at.metrics.sse_connections) == 1)
            screen.stuck = 10**6
            await feed.add(1)
            await asyncio.sleep(0)
            now = monotonic()
            await at.streams.tend(now + 31)
            assert 30 < at.streams.write_age_s(now + 31) < 32
            assert 40 < at.streams.write_age_s(now + 41) < 42


async def test_a_silent_connection_that_closed_is_noticed_by_the_watch(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    await feed.add(1)
    async with streaming(db, bus) as at, watching(at.streams, "run-1") as screen:
        await eventually(lambda: screen.seqs == [1])
        screen.gone = True
        await at.streams.tend(monotonic())
        await eventually(lambda: screen.reason is DisconnectReason.CLIENT)
        assert screen.seqs == [1]


async def test_a_client_that_leaves_is_counted_and_its_watch_lingers_then_goes(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    await feed.add(1)
    async with streaming(db, bus) as at:
        async with watching(at.streams, "run-1") as screen:
            await eventually(lambda: screen.seqs == [1])
        assert count(at.metrics.sse_disconnects[DisconnectReason.CLIENT]) == 1
        assert count(at.metrics.sse_connections) == 0
        async with watching(at.streams, "run-1") as again:
            await eventually(lambda: again.seqs == [1])
        assert at.reader.pages == 1
        await at.streams.tend(monotonic() + 60)
        async with watching(at.streams, "run-1") as cold:
            await eventually(lambda: cold.seqs == [1])
        assert at.reader.pages == 2


async def test_nothing_is_written_to_a_client_after_its_stream_ended(db: Database, bus: MemoryBus, feed: Feed) -> None:
    async with streaming(db, bus) as at, watching(at.streams, "run-1") as stays:
        async with watching(at.streams, "run-1") as leaves, watching(at.streams, "run-1") as leaves_stuck:
            await feed.add(1)
            await eventually(lambda: stays.seqs == leaves.seqs == leaves_stuck.seqs == [1])
            leaves_stuck.stuck = 10**6
            await feed.add(1)
            await eventually(lambda: at.streams.pace(monotonic()) == 1)
        await feed.add(1)
        await eventually(lambda: stays.seqs == [1, 2, 3])
        assert (leaves.seqs, leaves_stuck.seqs) == ([1, 2], [1])
        assert at.streams.pace(monotonic()) == 0


async def test_a_connection_that_closes_ends_its_stream_at_the_next_event(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    async with streaming(db, bus) as at, watching(at.streams, "run-1") as screen:
        await feed.add(1)
        await eventually(lambda: screen.seqs == [1])
        screen.gone = True
        await feed.add(1)
        await eventually(lambda: screen.reason is DisconnectReason.CLIENT)
        assert screen.seqs == [1]


async def test_the_first_client_may_leave_while_the_watch_opens_and_the_second_still_gets_it(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    await feed.add(2)
    async with streaming(db, bus) as at:
        first = asyncio.create_task(at.streams.attach("run-1", cursor=Cursor(0)).__aenter__())
        async with watching(at.streams, "run-1") as second:
            await asyncio.sleep(0)
            first.cancel()
            await eventually(lambda: second.seqs == [1, 2])


async def test_backfill_and_live_are_counted_apart(db: Database, bus: MemoryBus, feed: Feed) -> None:
    await feed.add(3)
    async with streaming(db, bus) as at, watching(at.streams, "run-1") as screen:
        await eventually(lambda: screen.seqs == [1, 2, 3])
        await feed.add(2)
        await eventually(lambda: len(screen.seqs) == 5)
        assert count(at.metrics.events_delivered[DeliveryPath.BACKFILL]) == 3
        assert count(at.metrics.events_delivered[DeliveryPath.LIVE]) == 2
        assert (at.metrics.sse_backfill.count, at.metrics.sse_backfill.sum) == (1, 3)
        assert at.metrics.delivery_lag.count == 2
        assert 0 <= at.metrics.delivery_lag.sum < 5


async def test_reconnects_of_a_run_and_of_a_client_are_counted_for_a_minute(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    await feed.add(3)
    async with streaming(db, bus) as at:
        for client in ("a", "a", "b"):
            async with at.streams.attach("run-1", cursor=Cursor(1, resumed=True), client=client):
                pass
        async with at.streams.attach("run-1", cursor=Cursor(1), client="a"):
            pass
        now = monotonic()
        await at.streams.tend(now)
        assert count(at.metrics.sse_run_reconnects_max) == 3
        assert count(at.metrics.sse_client_reconnects_max) == 2
        await at.streams.tend(now + 61)
        assert count(at.metrics.sse_run_reconnects_max) == 0


async def test_without_a_database_attaching_fails_and_open_streams_go_on(
    db: Database, bus: MemoryBus, feed: Feed, database: str
) -> None:
    async with (
        Database(database) as own,
        streaming(own, bus, sse_ring_events=2) as at,
        watching(at.streams, "run-1") as screen,
    ):
        await feed.add(1)
        await eventually(lambda: screen.seqs == [1])
        await own.__aexit__()
        await feed.add(3)
        await eventually(lambda: screen.seqs == [1, 2, 3, 4])
        with pytest.raises(DatabaseUnavailable):
            await at.streams.attach("run-2", cursor=Cursor(0)).__aenter__()
        async with watching(at.streams, "run-1", after=2) as within_the_ring:
            await eventually(lambda: within_the_ring.seqs == [3, 4])
        screen.stuck = 10**6
        await feed.add(9)
        screen.stuck = 0
        await eventually(lambda: screen.reason is DisconnectReason.ERROR)
        assert screen.retry_ms is not None


async def test_streams_of_a_run_that_is_deleted_end(db: Database, bus: MemoryBus, feed: Feed) -> None:
    await feed.add(1)
    async with streaming(db, bus, sse_silence_s=0.1) as at, watching(at.streams, "run-1") as screen:
        await eventually(lambda: screen.seqs == [1])
        await db.execute("DELETE FROM runs")
        await eventually(lambda: screen.reason is DisconnectReason.ERROR)
        with pytest.raises(RunNotFound):
            await at.streams.attach("run-1", cursor=Cursor(1)).__aenter__()


async def test_streams_of_a_run_that_was_restored_to_an_earlier_point_end(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    await feed.add(3)
    async with streaming(db, bus, sse_silence_s=0.1) as at, watching(at.streams, "run-1") as screen:
        await eventually(lambda: screen.seqs == [1, 2, 3])
        await db.execute("DELETE FROM run_events WHERE seq = 3")
        await db.execute("UPDATE run_outbox SET next_seq = 3")
        await db.execute("UPDATE runs SET last_seq = 2")
        await eventually(lambda: screen.reason is DisconnectReason.ERROR)
        assert screen.retry_ms is not None


async def test_when_the_log_is_another_one_streams_end_and_nothing_is_remembered(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    await feed.add(2)
    async with streaming(db, bus) as at:
        async with watching(at.streams, "run-1") as screen:
            await eventually(lambda: screen.seqs == [1, 2])
            at.streams.forget_history()
            await eventually(lambda: screen.reason is DisconnectReason.ERROR)
            assert screen.retry_ms is not None
        assert at.streams.watch_of("run-1") is None
        async with watching(at.streams, "run-1", after=2) as again:
            await feed.add(1)
            await eventually(lambda: again.seqs == [3])
