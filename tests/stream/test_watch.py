"""A watch, stepped: each test decides what happens between which two of its steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import replace
from math import inf
from typing import Any

import msgspec
import pytest

from runwire.bus import Published
from runwire.bus.memory import MemoryBus
from runwire.clock import monotonic
from runwire.db import Database
from runwire.errors import CursorExpired, CursorPastTail, RunNotFound
from runwire.settings import Settings
from runwire.stream.catch_up import CatchUp
from runwire.stream.fanout import Deliveries, Scheduler, open_sender
from runwire.stream.fanout.fanout import BY_TRANSPORT
from runwire.stream.fanout.outlet import Socket
from runwire.stream.limits import StreamLimits
from runwire.stream.tail import RECHECK_FIRST_S, RECHECK_MAX_S, End
from runwire.stream.watch import Watch, WatchParts
from runwire.telemetry.metrics import DeliveryPath
from stream.feed import CountingReader, Feed, count, fresh_metrics
from stream.screen import Connected, Screen


class Seat:
    """A client at a watch, without a session: it takes what it is given and comes back only when told."""

    def __init__(self, *, cursor: int = 0, chunked: bool = False) -> None:
        self.cursor = cursor
        self.screen = Screen(chunked=chunked)
        self.outlet = self.screen.outlet
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1

    async def catch_up_with(self, watch: Watch) -> None:
        while (piece := await watch.piece_after(self.cursor)) is not None:
            assert piece.first == self.cursor + 1
            self.outlet.write(piece.bytes(chunked=self.outlet.chunked))
            self.cursor = piece.last
        watch.fanout.join(self)


class Forgetful(Scheduler):
    """Has no memory for a batch while a test says so."""

    memory_is_short = False

    def add(self, fanout: Any, piece: bytes, clients: dict[Any, Socket]) -> int:
        if self.memory_is_short:
            raise MemoryError
        return super().add(fanout, piece, clients)


class Bench:
    def __init__(
        self, db: Database, bus: MemoryBus, settings: Settings, *, slots_a_tick: int | None, slice_bytes: int | None
    ) -> None:
        self.metrics = fresh_metrics()
        self.reader = CountingReader(db)
        self.catch_up = CatchUp(self.reader)
        self.scheduler = Forgetful(open_sender(), Deliveries(self.metrics), slots_a_tick=slots_a_tick)
        limits = StreamLimits.of(settings)
        parts = WatchParts(
            bus=bus,
            reader=self.reader,
            catch_up=self.catch_up,
            scheduler=self.scheduler,
            limits=limits if slice_bytes is None else replace(limits, slice_bytes=slice_bytes),
            metrics=self.metrics,
        )
        self.watch = Watch("run-1", parts)

    async def settle(self) -> None:
        """Everything that was asked for is read, and everything read is written."""
        while await self.catch_up.read():
            pass
        await self.watch.fanout.idle()

    async def check(self, *, in_s: float = 0.0, silent: bool = False) -> int:
        return await self.catch_up.check([self.watch], now=monotonic() + in_s, silent=silent)


@asynccontextmanager
async def bench(
    db: Database,
    bus: MemoryBus,
    *,
    slots_a_tick: int | None = None,
    slice_bytes: int | None = None,
    **settings: int,
) -> AsyncIterator[Bench]:
    made = Bench(db, bus, Settings(**settings), slots_a_tick=slots_a_tick, slice_bytes=slice_bytes)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        await made.watch.aclose()
        made.scheduler.close()


@pytest.fixture
async def feed(db: Database, bus: MemoryBus) -> Feed:
    return await Feed(db, bus).start()


@pytest.fixture
def connected() -> Iterator[list[Connected]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Connected())) for _ in range(2)]


@pytest.mark.parametrize("committed", [False, True], ids=["on the bus", "on the bus and committed"])
async def test_what_is_published_between_subscribing_and_reading_the_position_arrives_once(
    db: Database, bus: MemoryBus, feed: Feed, committed: bool
) -> None:
    await feed.add(2)
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await feed.append()
        await feed.to_bus(3, 3)
        if committed:
            await feed.commit(3)
        await at.watch.locate()
        seat = Seat()
        await seat.catch_up_with(at.watch)
        await at.settle()
        assert seat.screen.seqs == [1, 2, 3]


async def test_what_is_published_between_reading_the_position_and_the_backfill_arrives_once(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    await feed.add(2)
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        await feed.add()
        seat = Seat()
        await seat.catch_up_with(at.watch)
        await at.settle()
        assert seat.screen.seqs == [1, 2, 3]


async def test_what_was_on_the_bus_before_subscribing_and_committed_after_the_position_arrives_within_100_ms(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    await feed.add(2)
    await feed.append()
    await feed.to_bus(3, 3)  # nobody is there to hear it
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()  # 3 exists, but counts as unpublished
        await feed.commit(3)
        seat = Seat()
        await seat.catch_up_with(at.watch)
        assert seat.screen.seqs == [1, 2]
        assert await at.check() == 0
        assert await at.check(in_s=RECHECK_FIRST_S) == 1
        await at.settle()
        assert seat.screen.seqs == [1, 2, 3]
        assert count(at.metrics.sse_gaps_repaired) == 0


async def test_an_event_that_stays_unpublished_is_asked_for_ever_more_rarely_and_never_shown(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    await feed.add(2)
    await feed.append()
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        seat = Seat()
        await seat.catch_up_with(at.watch)
        waits = []
        for _ in range(6):
            assert await at.check(in_s=RECHECK_MAX_S) == 1
            waits.append(round(at.watch.tail.check_at - monotonic(), 1))
            await at.settle()
        assert waits == [0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
        assert seat.screen.seqs == [1, 2]


async def test_what_the_bus_repeats_is_dropped_and_counted(db: Database, bus: MemoryBus, feed: Feed) -> None:
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        seat = Seat()
        await seat.catch_up_with(at.watch)
        await feed.add(3)
        await feed.to_bus(1, 3)
        await feed.append(2)
        await feed.to_bus(2, 5)
        await at.settle()
        assert seat.screen.seqs == [1, 2, 3, 4, 5]
        assert count(at.metrics.sse_duplicates_dropped) == 5
        assert count(at.metrics.sse_gaps_repaired) == 0


async def test_a_gap_on_the_bus_is_filled_from_postgres_and_counted_once(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        seat = Seat()
        await seat.catch_up_with(at.watch)
        await feed.add()
        await feed.lose_on_bus(2)
        await feed.add()
        await feed.add()
        await at.settle()
        assert seat.screen.seqs == [1, 2, 3, 4, 5]
        assert count(at.metrics.sse_gaps_repaired) == 1


async def test_what_arrives_while_a_gap_is_being_read_is_neither_lost_nor_repeated(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        seat = Seat()
        await seat.catch_up_with(at.watch)
        await feed.lose_on_bus(2)
        await feed.add()
        stretch = at.watch.tail.stretch_behind
        assert stretch is not None
        read = await at.reader.events(stretch, limit=10)
        await feed.to_bus(1, 3)  # the publisher crashed and sends all of it again
        await feed.add()
        at.watch.take(read)
        await at.settle()
        assert seat.screen.seqs == [1, 2, 3, 4]


async def test_a_read_with_a_hole_gives_nothing_beyond_it(db: Database, bus: MemoryBus, feed: Feed) -> None:
    await feed.append(3)
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        seat = Seat()
        await seat.catch_up_with(at.watch)
        await feed.bus.publish([Published(feed.run_id, 1, 3, None)])
        at.watch.take([feed.events[0], feed.events[2]])
        at.watch.take([feed.events[1], feed.events[2]])
        await asyncio.sleep(0)
        assert seat.screen.seqs == []
        await at.settle()
        assert seat.screen.seqs == [1, 2, 3]


async def test_a_hint_without_events_is_read_from_postgres_and_is_no_gap(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        seat = Seat()
        await seat.catch_up_with(at.watch)
        await feed.append(4)
        await bus.publish([Published("run-1", 1, 2, None), Published("run-1", 3, 4, None)])
        await at.settle()
        assert seat.screen.seqs == [1, 2, 3, 4]
        assert len(seat.screen.writes) == 1
        assert count(at.metrics.sse_gaps_repaired) == 0


async def test_messages_lost_without_a_successor_are_found_by_silence(db: Database, bus: MemoryBus, feed: Feed) -> None:
    async with bench(db, bus, sse_silence_s=5) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        seat = Seat()
        await seat.catch_up_with(at.watch)
        await feed.add()
        await at.settle()
        await feed.lose_on_bus(2)
        assert await at.check(in_s=4.5, silent=True) == 0
        assert await at.check(in_s=5.1, silent=False) == 0
        assert await at.check(in_s=5.1, silent=True) == 1
        await at.settle()
        assert seat.screen.seqs == [1, 2, 3]
        assert count(at.metrics.sse_gaps_repaired) == 1


async def test_a_message_that_does_not_carry_what_it_says_is_taken_as_a_hint(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        seat = Seat()
        await seat.catch_up_with(at.watch)
        await feed.append(3)
        await bus.publish([Published("run-1", 1, 3, (feed.events[0], feed.events[2]))])
        await at.settle()
        assert seat.screen.seqs == [1, 2, 3]


async def test_a_client_ahead_of_the_commit_waits_for_the_repeat_and_sees_only_what_is_new(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    await feed.append(3)
    await feed.to_bus(1, 3)  # a client elsewhere has all three; then the publisher crashed
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        assert await at.watch.admit(3) is None
        seat = Seat(cursor=3)
        at.watch.fanout.join(seat)
        await feed.to_bus(1, 2)
        await at.settle()
        assert (seat.screen.writes, seat.woken) == ([], 0)
        await feed.append()
        await feed.to_bus(3, 4)
        await asyncio.sleep(0)
        assert seat.woken == 1
        await seat.catch_up_with(at.watch)
        assert seat.screen.seqs == [4]


async def test_a_cursor_past_the_log_is_refused_after_a_second_look(db: Database, bus: MemoryBus, feed: Feed) -> None:
    await feed.add(2)
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        await feed.lose_on_bus()
        assert await at.watch.admit(3) is None
        with pytest.raises(CursorPastTail) as refused:
            await at.watch.admit(4)
        assert refused.value.last_seq == 3


async def test_a_run_that_does_not_exist_is_not_located(db: Database, bus: MemoryBus) -> None:
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        with pytest.raises(RunNotFound):
            await at.watch.locate()


async def test_a_watch_that_two_loops_close_at_once_leaves_the_bus_once(db: Database, bus: MemoryBus) -> None:
    """As when the database was away: one loop closes what is idle, the other what is gone."""
    async with bench(db, bus) as at, bench(db, bus) as other:
        for each in (at, other):
            await each.watch.subscribe()
        await asyncio.gather(at.watch.aclose(), at.watch.aclose())


async def test_a_cursor_whose_events_are_gone_is_expired(db: Database, bus: MemoryBus, feed: Feed) -> None:
    await feed.add(5, end="finished")
    await db.execute("DELETE FROM run_events WHERE seq <= 3")
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        with pytest.raises(CursorExpired) as refused:
            await at.watch.admit(1)
        assert refused.value.earliest_seq == 4


async def test_clients_at_one_place_share_one_read_and_one_buffer(db: Database, bus: MemoryBus, feed: Feed) -> None:
    await feed.add(50)
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        pieces = await asyncio.gather(*(at.watch.piece_after(10) for _ in range(20)))
        assert at.reader.pages == 1
        assert len({id(piece) for piece in pieces}) == 1


async def test_what_was_read_for_one_client_is_in_the_ring_for_the_next(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    await feed.add(50)
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        await Seat().catch_up_with(at.watch)
        late = Seat(cursor=20)
        await late.catch_up_with(at.watch)
        assert late.screen.seqs == list(range(21, 51))
        assert at.reader.pages == 1


async def test_a_reader_of_a_page_that_leaves_takes_nothing_from_those_that_wait_with_it(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    await feed.add(5)
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        first = asyncio.create_task(at.watch.piece_after(0))
        second = asyncio.create_task(at.watch.piece_after(0))
        await asyncio.sleep(0)
        first.cancel()
        piece = await second
        assert piece is not None
        assert piece.last == 5


async def test_events_are_encoded_once_and_all_of_a_tick_are_one_write_of_the_same_bytes(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        plain = [Seat() for _ in range(3)]
        chunked = [Seat(chunked=True) for _ in range(3)]
        for seat in (*plain, *chunked):
            await seat.catch_up_with(at.watch)
        await feed.append(4)
        await feed.to_bus(1, 1)
        await feed.to_bus(2, 4)
        await asyncio.sleep(0)
        for seats in (plain, chunked):
            assert [len(seat.screen.writes) for seat in seats] == [1, 1, 1]
            assert len({id(seat.screen.writes[0]) for seat in seats}) == 1
            assert seats[0].screen.seqs == [1, 2, 3, 4]
        await asyncio.sleep(0)  # what was written is counted a tick later
        assert count(at.metrics.events_delivered[DeliveryPath.LIVE]) == 24
        assert at.metrics.delivery_lag.count == 24


async def test_a_client_that_cannot_keep_up_is_let_go_at_its_cursor_and_the_others_go_on(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        slow, gone, quick = Seat(), Seat(), Seat()
        for seat in (slow, gone, quick):
            await seat.catch_up_with(at.watch)
        await feed.add(2)
        await asyncio.sleep(0)
        slow.screen.stuck, gone.screen.gone = 10**6, True
        await feed.add(3)
        await asyncio.sleep(0)
        await feed.add()
        await asyncio.sleep(0)
        assert quick.screen.seqs == [1, 2, 3, 4, 5, 6]
        assert [(seat.cursor, seat.woken, seat.screen.seqs) for seat in (slow, gone)] == [(2, 1, [1, 2])] * 2
        slow.screen.stuck = 0
        await slow.catch_up_with(at.watch)
        assert slow.screen.seqs == [1, 2, 3, 4, 5, 6]


async def test_a_connection_that_fails_in_the_middle_of_a_flush_costs_no_other_client_an_event(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    def broken(_data: bytes) -> None:
        raise RuntimeError("the transport is closed")

    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        bad, good = Seat(), Seat()
        bad.outlet = type(bad.outlet)(broken, lambda: 0, lambda: False, chunked=False)
        for seat in (bad, good):
            await seat.catch_up_with(at.watch)
        await feed.add(2)
        await asyncio.sleep(0)
        assert good.screen.seqs == [1, 2]
        assert (bad.cursor, bad.woken) == (0, 1)


async def test_a_client_that_leaves_before_or_after_its_slot_takes_its_own_cursor_along(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    async with bench(db, bus, slots_a_tick=1) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        seats = [Seat() for _ in range(3)]
        for seat in seats:
            await seat.catch_up_with(at.watch)
        await feed.append(2)
        await feed.to_bus(1, 2)
        await asyncio.sleep(0)
        assert sorted(len(seat.screen.writes) for seat in seats) == [0, 0, 1]
        for seat in seats:
            at.watch.fanout.leave(seat)
        assert [seat.cursor for seat in seats] == [2 * len(seat.screen.writes) for seat in seats]
        for seat in seats:
            await seat.catch_up_with(at.watch)
        await feed.append(1)
        await feed.to_bus(3, 3)
        for _ in range(4):
            await asyncio.sleep(0)
        assert [seat.screen.seqs for seat in seats] == [[1, 2, 3]] * 3


async def test_clients_of_transports_use_more_slots_of_a_tick(db: Database, bus: MemoryBus, feed: Feed) -> None:
    async with bench(db, bus, slots_a_tick=2 * BY_TRANSPORT) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        seats = [Seat() for _ in range(5)]
        for seat in seats:
            await seat.catch_up_with(at.watch)
        await feed.append(1)
        await feed.to_bus(1, 1)
        for written in (2, 4, 5):
            await asyncio.sleep(0)
            assert sum(len(seat.screen.writes) for seat in seats) == written


async def test_a_burst_larger_than_a_write_may_be_goes_out_piecewise(db: Database, bus: MemoryBus, feed: Feed) -> None:
    async with bench(db, bus, sse_slow_bytes=65536) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        seat = Seat()
        await seat.catch_up_with(at.watch)
        await feed.append(1500)  # more than the ring keeps
        await feed.to_bus(1, 1500)
        await asyncio.sleep(0)
        assert len(seat.screen.writes) == 1
        for _ in range(20):
            await asyncio.sleep(0)
        assert seat.screen.seqs == list(range(1, 1501))
        assert max(map(len, seat.screen.writes)) <= 65536 // 4
        assert (seat.woken, at.reader.pages) == (0, 0)


async def test_the_end_is_known_after_the_terminal_event_and_nothing_is_asked_any_more(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        seat = Seat()
        await seat.catch_up_with(at.watch)
        await feed.append(3, end="failed")
        await feed.to_bus(1, 3)
        await asyncio.sleep(0)
        assert seat.screen.seqs == [1, 2, 3]
        assert at.watch.ended_for(3) is None
        await at.settle()
        assert at.watch.ended_for(3) == End("failed", 3)
        assert at.watch.ended_for(2) is None
        assert seat.woken == 1
        assert at.watch.tail.check_at == inf


async def test_a_client_with_the_unpublished_end_of_a_closed_run_has_nothing_left(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    await feed.append(3, end="finished")
    await feed.to_bus(1, 3)
    await feed.commit(2)
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        assert await at.watch.admit(3) == End("finished", 3)


async def test_what_a_socket_did_not_take_comes_before_what_follows(db: Database, bus: MemoryBus, feed: Feed) -> None:
    async with bench(db, bus) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        seat = Seat()
        seat.screen = screen = Connected()
        seat.outlet = screen.outlet
        await seat.catch_up_with(at.watch)
        await feed.append(300)
        await feed.to_bus(1, 300)
        await asyncio.sleep(0)
        assert screen.receive()  # there is room, and the transport has not noticed
        assert screen.held
        await feed.append(1)
        await feed.to_bus(301, 301)
        await asyncio.sleep(0)
        assert screen.seqs == list(range(1, 302))
        assert seat.woken == 0
        screen.close()


async def test_followers_of_a_run_with_more_events_than_can_be_written_go_on_by_themselves_and_nothing_waits_here(
    db: Database, bus: MemoryBus, feed: Feed
) -> None:
    async with bench(db, bus, slice_bytes=1, sse_ring_events=4) as at:  # a piece is an event
        await at.watch.subscribe()
        await at.watch.locate()
        seats = [Seat() for _ in range(2)]
        for seat in seats:
            await seat.catch_up_with(at.watch)
        await feed.append(100)
        await feed.to_bus(1, 100)
        assert [seat.woken for seat in seats] == [0, 0]
        await asyncio.sleep(0)
        assert [(seat.cursor, seat.woken, seat.screen.seqs) for seat in seats] == [(1, 1, [1])] * 2
        assert len(at.watch.tail.ring) <= 4
        assert not at.watch.fanout.busy
        for seat in seats:
            await seat.catch_up_with(at.watch)
        await feed.append(1)
        await feed.to_bus(len(feed.events), len(feed.events))
        await asyncio.sleep(0)
        assert [seat.screen.seqs for seat in seats] == [list(range(1, len(feed.events) + 1))] * 2


@pytest.mark.parametrize("slots_a_tick", [1, 64])
@pytest.mark.parametrize("with_another", [True, False], ids=["with one by its transport", "all by sockets"])
async def test_clients_that_no_batch_has_memory_for_go_on_by_themselves_from_where_they_are(
    feed: Feed, bus: MemoryBus, slots_a_tick: int, with_another: bool, connected: list[Connected]
) -> None:
    async with bench(feed.database, bus, slots_a_tick=slots_a_tick) as at:
        await at.watch.subscribe()
        await at.watch.locate()
        seats = [Seat() for _ in range(3 if with_another else 2)]
        for seat, screen in zip(seats, connected, strict=False):
            seat.screen, seat.outlet = screen, screen.outlet
        for seat in seats:
            await seat.catch_up_with(at.watch)
        for seqs in ([1], [2, 3]):
            at.scheduler.memory_is_short = True
            await feed.append(len(seqs))
            await feed.to_bus(seqs[0], seqs[-1])
            await at.watch.fanout.idle()
            assert [seat.woken for seat in seats] == ([seqs[0]] * 2 + [0])[: len(seats)]  # once for each piece
            assert [seat.cursor for seat in seats[:2]] == [seqs[0] - 1] * 2
            at.scheduler.memory_is_short = False
            for seat, screen in zip(seats, connected, strict=False):
                await seat.catch_up_with(at.watch)
                screen.send(len(screen.held))
        await feed.append(1)
        await feed.to_bus(4, 4)
        await at.watch.fanout.idle()
        assert [seat.screen.seqs for seat in seats] == [[1, 2, 3, 4]] * len(seats)


@pytest.mark.parametrize("told", ["with the event", "later"])
async def test_a_terminal_event_that_says_how_the_run_ended_needs_no_read(
    db: Database, feed: Feed, bus: MemoryBus, told: str
) -> None:
    async with bench(db, bus) as at:
        await feed.add(2)
        await at.watch.subscribe()
        await at.watch.locate()
        seat = Seat()
        await seat.catch_up_with(at.watch)
        await feed.append(end="failed")
        bare = Published(feed.run_id, 3, 3, tuple(feed.events[2:]))
        if told == "later":
            await bus.publish([bare])
            await at.watch.fanout.idle()
            assert seat.woken == 0
        await bus.publish([msgspec.structs.replace(bare, outcome="failed")])
        await at.watch.fanout.idle()
        assert seat.woken == 1
        assert at.watch.ended_for(seat.cursor) == End("failed", 3)
        assert not at.watch.tail.wants_end
        # CatchUp did not run: nothing but the bus was heard.
