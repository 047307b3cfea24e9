"""A fan-out by its door: pieces in, each to every follower, once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest

from runwire.settings import Settings
from runwire.stream.fanout import Deliveries, Fanout, LoopSender, Scheduler, Sender
from runwire.stream.frames import Frames
from runwire.stream.limits import StreamLimits
from runwire.stream.piece import Piece
from runwire.stream.sse import HEARTBEAT, chunk
from stream.feed import fresh_metrics, held, made_event
from stream.screen import Connected, Screen

FRAMES = Frames("run-1")


class Seat:
    """A follower. `woken` counts how often it was given back."""

    def __init__(self, screen: Screen | None = None, *, cursor: int = 0) -> None:
        self.cursor = cursor
        self.screen = screen or Screen()
        self.outlet = self.screen.outlet
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


def piece(first: int, last: int) -> Piece:
    events = [made_event(seq) for seq in range(first, last + 1)]
    return Piece(first, last, (FRAMES.of(events),), [(1, event.ts_us) for event in events])


def fan_out(
    *, sent: int = 0, sender: Sender | None = None, slots_a_tick: int = 64, slice_bytes: int = 10_000
) -> Fanout:
    limits = replace(StreamLimits.of(Settings(sse_ring_events=4)), slice_bytes=slice_bytes)
    scheduler = Scheduler(sender or LoopSender(), Deliveries(fresh_metrics()), slots_a_tick=slots_a_tick)
    return Fanout("run-1", sent=sent, scheduler=scheduler, limits=limits)


@pytest.fixture
def connected() -> Iterator[Connected]:
    with ExitStack() as stack:
        yield stack.enter_context(closing(Connected()))


async def test_idle_returns_when_every_follower_has_every_piece() -> None:
    fanout = fan_out(slots_a_tick=4)
    seats = [Seat() for _ in range(5)]
    for seat in seats:
        fanout.join(seat)
    assert not fanout.busy
    for seq in range(1, 4):
        fanout.send(piece(seq, seq))
    assert fanout.busy
    assert [seat.screen.writes for seat in seats] == [[]] * 5
    await asyncio.wait_for(fanout.idle(), 5)
    assert [seat.screen.seqs for seat in seats] == [[1, 2, 3]] * 5
    assert [len(seat.screen.writes) for seat in seats] == [1] * 5  # what is sent before its slot shares a write
    assert fanout.sent == 3


async def test_idle_waits_for_the_threads(connected: Connected) -> None:
    sender = held()
    fanout = fan_out(sender=sender)
    seat = Seat(connected)
    fanout.join(seat)
    fanout.send(piece(1, 1))
    waiting = asyncio.create_task(fanout.idle())
    for _ in range(5):
        await asyncio.sleep(0)
    assert fanout.writing
    assert not waiting.done()
    sender.finish()
    await asyncio.wait_for(waiting, 5)
    assert connected.seqs == [1]
    sender.close()


async def test_a_client_that_leaves_during_a_piece_has_what_its_cursor_says() -> None:
    fanout = fan_out(slots_a_tick=4)
    seats = [Seat() for _ in range(2)]
    for seat in seats:
        fanout.join(seat)
    fanout.send(piece(1, 2))
    await asyncio.sleep(0)
    for seat in seats:
        fanout.leave(seat)
        fanout.leave(seat)  # which is no follower any more
    assert sorted(seat.cursor for seat in seats) == [0, 2]
    assert [seat.screen.seqs for seat in seats] == [list(range(1, seat.cursor + 1)) for seat in seats]
    assert [seat.woken for seat in seats] == [0, 0]  # they left by themselves


async def test_a_client_that_is_ahead_is_given_back_when_its_cursor_is_reached() -> None:
    fanout = fan_out()
    ahead, with_all = Seat(cursor=2), Seat()
    fanout.join(ahead)
    fanout.join(with_all)
    fanout.send(piece(1, 1))
    await fanout.idle()
    assert ahead.woken == 0
    fanout.send(piece(2, 3))
    await fanout.idle()
    assert (ahead.woken, ahead.cursor, ahead.screen.writes) == (1, 2, [])
    assert with_all.screen.seqs == [1, 2, 3]


async def test_a_client_that_is_behind_cannot_join() -> None:
    with pytest.raises(AssertionError):
        fan_out(sent=5).join(Seat(cursor=4))


async def test_everybody_is_given_back_at_the_end_and_not_before() -> None:
    fanout = fan_out()
    seats = [Seat(), Seat(cursor=3)]
    for seat in seats:
        fanout.join(seat)
    fanout.send(piece(1, 2))
    fanout.end_at(2)
    assert [seat.woken for seat in seats] == [0, 0]
    await fanout.idle()
    assert [(seat.woken, seat.cursor) for seat in seats] == [(1, 2), (1, 3)]


async def test_a_piece_longer_than_a_write_may_be_goes_out_in_several() -> None:
    fanout = fan_out(slice_bytes=300)
    seat = Seat()
    fanout.join(seat)
    fanout.send(piece(1, 20))
    fanout.send(piece(21, 25))
    await fanout.idle()
    assert seat.screen.seqs == list(range(1, 26))
    assert max(map(len, seat.screen.writes)) <= 300


async def test_when_more_is_pending_than_sixteen_rings_followers_go_back_to_their_sessions() -> None:
    fanout = fan_out(slice_bytes=1)
    seat = Seat()
    fanout.join(seat)
    fanout.send(piece(1, 100))
    await fanout.idle()
    assert (seat.woken, seat.cursor, seat.screen.seqs) == (1, 1, [1])
    assert fanout.sent == 100


async def test_what_a_session_wrote_itself_comes_before_the_next_piece(connected: Connected) -> None:
    fanout = fan_out()
    seat = Seat(connected)
    fanout.join(seat)
    fanout.send(piece(1, 1))
    await fanout.idle()
    seat.outlet.write(chunk(HEARTBEAT))  # a byte of it at once, the rest when the transport has time
    fanout.to_transport(seat)
    fanout.send(piece(2, 2))
    await fanout.idle()
    assert connected.held
    assert connected.seqs == [1, 2]
