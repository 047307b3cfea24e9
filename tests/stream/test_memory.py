"""The frames kept for clients to come are bounded, however many runs are watched one after the other."""

from __future__ import annotations

from contextlib import AsyncExitStack

from runwire.bus.memory import MemoryBus
from runwire.db import Database
from stream.feed import Feed, streaming
from stream.screen import Screen, watching
from waiting import eventually

MIB = 1_048_576


async def closed_runs(db: Database, bus: MemoryBus, count: int, *, events: int) -> list[str]:
    run_ids = [f"run-{number}" for number in range(count)]
    for run_id in run_ids:
        await (await Feed(db, bus, run_id=run_id).start()).add(events)
    return run_ids


async def seen(screen: Screen, last: int) -> None:
    await eventually(lambda: screen.seqs == list(range(1, last + 1)))


async def test_a_few_clients_that_go_from_run_to_run_leave_no_more_than_the_bound(db: Database, bus: MemoryBus) -> None:
    run_ids = await closed_runs(db, bus, 30, events=1000)
    async with streaming(db, bus, sse_ring_bytes_max=MIB) as at:
        most = 0
        for run_id in run_ids:
            async with watching(at.streams, run_id) as screen:
                await seen(screen, 1000)
                most = max(most, at.streams.ring_bytes)
            most = max(most, at.streams.ring_bytes)
        assert MIB // 2 < most <= MIB
        assert 0 < at.streams.idle_runs < 30
        reads = at.reader.pages
        async with watching(at.streams, run_ids[-1]) as screen:  # the latest is still warm
            await seen(screen, 1000)
        assert at.reader.pages == reads


async def test_runs_that_nobody_watches_any_more_are_kept_up_to_a_number_the_oldest_leaving_first(
    db: Database, bus: MemoryBus
) -> None:
    run_ids = await closed_runs(db, bus, 5, events=10)
    async with streaming(db, bus, sse_idle_runs_max=2) as at:
        for run_id in run_ids:
            async with watching(at.streams, run_id) as screen:
                await seen(screen, 10)
            assert at.streams.idle_runs <= 2
        reads = at.reader.pages
        for run_id, more in ((run_ids[-1], 0), (run_ids[-2], 0), (run_ids[0], 1)):
            async with watching(at.streams, run_id) as screen:
                await seen(screen, 10)
            assert at.reader.pages - reads == more, run_id


async def test_runs_that_are_watched_give_up_frames_their_clients_have_and_lose_nothing(
    db: Database, bus: MemoryBus
) -> None:
    feeds = [await Feed(db, bus, run_id=f"run-{number}").start() for number in range(12)]
    for feed in feeds:
        await feed.add(1000)
    async with streaming(db, bus, sse_ring_bytes_max=MIB) as at, AsyncExitStack() as open_:
        screens = [await open_.enter_async_context(watching(at.streams, feed.run_id)) for feed in feeds]
        for screen in screens:
            await seen(screen, 1000)
        for _ in range(3):
            for feed in feeds:
                await feed.add(10)
        for screen in screens:
            await seen(screen, 1030)
        at.streams.keep_within_bounds()
        assert at.streams.ring_bytes <= MIB
        late = await open_.enter_async_context(watching(at.streams, feeds[0].run_id))
        await seen(late, 1030)
