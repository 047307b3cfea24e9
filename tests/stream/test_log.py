from __future__ import annotations

import pytest

from runwire.bus.memory import MemoryBus
from runwire.db import Database
from runwire.errors import CursorExpired, CursorPastTail, RunNotFound
from runwire.stream import LogReader
from runwire.stream.log import Stretch
from stream.feed import Feed


@pytest.fixture
async def feed(db: Database, bus: MemoryBus) -> Feed:
    return await Feed(db, bus).start()


async def test_a_page_has_published_events_only(db: Database, feed: Feed) -> None:
    await feed.add(3)
    await feed.append(2)
    page = await LogReader(db).page("run-1", after=1, limit=10)
    assert page.events == tuple(feed.events[1:3])
    assert (page.has_more, page.closed, page.last_seq) == (False, False, 5)


async def test_pages_follow_each_other_to_the_end_of_a_closed_run(db: Database, feed: Feed) -> None:
    await feed.add(5, end="finished")
    reader = LogReader(db)
    pages = [await reader.page("run-1", after=after, limit=2) for after in (0, 2, 4, 5)]
    assert [[event.seq for event in page.events] for page in pages] == [[1, 2], [3, 4], [5], []]
    assert [page.has_more for page in pages] == [True, True, False, False]
    assert all(page.closed for page in pages)


async def test_a_closed_run_whose_end_is_unpublished_is_not_closed_to_readers(db: Database, feed: Feed) -> None:
    await feed.append(3, end="finished")
    await feed.commit(2)
    page = await LogReader(db).page("run-1", after=0, limit=10)
    assert ([event.seq for event in page.events], page.closed) == ([1, 2], False)


async def test_a_cursor_between_published_and_last_is_an_empty_page_and_one_past_the_log_is_refused(
    db: Database, feed: Feed
) -> None:
    await feed.add(2)
    await feed.append(1)
    reader = LogReader(db)
    assert (await reader.page("run-1", after=3, limit=10)).events == ()
    with pytest.raises(CursorPastTail) as refused:
        await reader.page("run-1", after=4, limit=10)
    assert (refused.value.cursor, refused.value.last_seq) == (4, 3)


async def test_a_run_that_does_not_exist_has_no_page(db: Database) -> None:
    with pytest.raises(RunNotFound):
        await LogReader(db).page("run-1", after=0, limit=10)


async def test_events_that_are_gone_make_the_cursor_expired(db: Database, feed: Feed) -> None:
    await feed.add(4, end="finished")
    await db.execute("DELETE FROM run_events")
    with pytest.raises(CursorExpired) as refused:
        await LogReader(db).page("run-1", after=0, limit=10)
    assert refused.value.earliest_seq == 5


async def test_tails_of_many_runs_come_in_one_read_each_bounded(db: Database, bus: MemoryBus, feed: Feed) -> None:
    other = await Feed(db, bus, run_id="run-2").start()
    await feed.add(5)
    await other.add(3)
    reader = LogReader(db)
    positions = await reader.positions(["run-1", "run-2", "run-3"])
    assert set(positions) == {"run-1", "run-2"}
    day = positions["run-1"].run_day
    wanted = [Stretch("run-2", day, 1, 2), Stretch("run-1", day, 0, 5), Stretch("run-1", day, 5, 5)]
    tails = await reader.tails(wanted, limit=4)
    assert [[event.seq for event in tail] for tail in tails] == [[2], [1, 2, 3, 4], []]
