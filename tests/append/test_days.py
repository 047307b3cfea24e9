"""A day that is missing from the log is made by the append that misses it: no run outlives its day."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from pipeline import Stages, raw, stages
from runwire.agents.golden import golden
from runwire.db.partitions import EventPartitions, partition_of
from runwire.errors import PartitionMissing
from runwire.model.event import Source, debug_trace
from runwire.orchestrate import StartRequest
from waiting import eventually

FAR = dt.date(2031, 3, 4)


async def of_day(line: Stages, run_id: str, day: dt.date) -> int:
    """An external run that has begun, and whose day is another."""
    fence = await line.started_run(run_id)
    await line.database.execute("UPDATE runs SET run_day = $2 WHERE run_id = $1", run_id, day)
    await line.database.execute("UPDATE run_outbox SET run_day = $2 WHERE run_id = $1", run_id, day)
    return fence


async def test_an_append_makes_the_day_that_it_misses(database: str) -> None:
    async with stages(database) as line:
        fence = await of_day(line, "r", FAR)
        appended = await line.log.append("r", [debug_trace("x")], fence=fence, source=Source.API)
        assert appended.first_seq == 2
        assert FAR in await EventPartitions(line.database).attached()


async def test_all_who_miss_a_day_at_once_are_stored(database: str) -> None:
    async with stages(database) as line:
        fences = {f"r{n}": await of_day(line, f"r{n}", FAR) for n in range(20)}
        appends = (line.log.append(r, [debug_trace("x")], fence=f, source=Source.API) for r, f in fences.items())
        assert {appended.first_seq for appended in await asyncio.gather(*appends)} == {2}


async def test_a_clock_that_is_days_ahead_stops_no_run(database: str) -> None:
    """Starts are accepted, since they need no partition; what they start goes on at once, not at the next upkeep."""
    async with stages(database, golden) as line:
        await line.control.start(StartRequest(agent="golden", run_id="r"))
        await line.database.execute("UPDATE runs SET run_day = run_day + 9")
        await line.database.execute("UPDATE run_outbox SET run_day = run_day + 9")
        worker = line.worker(worker_poll_s=0.05)
        walking = asyncio.create_task(worker.run())
        await eventually(lambda: line.database.fetchval("SELECT finished_at FROM runs"), within_s=10)
        await worker.drain(within_s=5)
        await walking
        assert len(await line.events("r")) == 13


async def test_a_day_that_was_detached_comes_back_with_its_events(database: str) -> None:
    async with stages(database) as line:
        fence = await of_day(line, "r", FAR)
        await line.log.append("r", [debug_trace("x")], fence=fence, source=Source.API)
        await line.database.execute(f"ALTER TABLE run_events DETACH PARTITION {partition_of(FAR)}")
        await eventually(lambda: appended(line, fence))
        assert [label for _, _, label in await line.events("r")][-2:] == ["x", "y"]


async def appended(line: Stages, fence: int) -> bool:
    try:
        await line.log.append("r", [debug_trace("y")], fence=fence, source=Source.API)
    except PartitionMissing:  # made so lately that nobody looks again
        return False
    return True


async def test_others_append_while_a_day_waits_for_a_lock(database: str) -> None:
    async with stages(database) as line:
        late = await of_day(line, "late", FAR)
        today = await line.started_run("today")
        blocker = await raw(database)
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("LOCK TABLE run_events IN SHARE UPDATE EXCLUSIVE MODE")
        waits = asyncio.create_task(line.log.append("late", [debug_trace("x")], fence=late, source=Source.API))
        for _ in range(20):
            async with asyncio.timeout(1):
                await line.log.append("today", [debug_trace("x")], fence=today, source=Source.API)
        assert not waits.done()
        with pytest.raises(PartitionMissing):
            await waits
        await transaction.rollback()
        await blocker.close()
        assert await eventually(lambda: late_stored(line, late))


async def late_stored(line: Stages, fence: int) -> bool:
    try:
        await line.log.append("late", [debug_trace("x")], fence=fence, source=Source.API)
    except PartitionMissing:
        return False
    return True


async def test_a_run_whose_day_cannot_be_made_lets_its_worker_go_on(database: str) -> None:
    """As many of them as the worker has room for, and the next run is walked all the same."""
    async with stages(database, golden) as line:
        blocker = await raw(database)
        for n in range(2):
            await line.control.start(StartRequest(agent="golden", run_id=f"stuck{n}"))
        # Another thing has the name of the day's table: nothing that is tried will help.
        await line.database.execute("UPDATE runs SET run_day = $1", FAR)
        await blocker.execute(f"CREATE TABLE {partition_of(FAR)} (n int)")
        await line.control.start(StartRequest(agent="golden", run_id="fine"))
        worker = line.worker(worker_poll_s=0.05, worker_concurrency=2)
        walking = asyncio.create_task(worker.run())
        await eventually(
            lambda: line.database.fetchval("SELECT finished_at FROM runs WHERE run_id = 'fine'"), within_s=30
        )
        async with asyncio.timeout(10):
            await worker.drain(within_s=5)
            await walking
        await blocker.close()
