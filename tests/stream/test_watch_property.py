"""Every client sees 1, 2, 3, ... though the bus loses, repeats and only hints, and PostgreSQL is read at any time."""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import closing
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from runwire.bus import Published
from runwire.bus.memory import MemoryBus
from runwire.db import Database
from runwire.model.run import RunState
from runwire.settings import Settings
from runwire.stream.catch_up import CatchUp
from runwire.stream.fanout import Deliveries, Scheduler
from runwire.stream.limits import StreamLimits
from runwire.stream.log import LogReader, Position
from runwire.stream.sse import HEARTBEAT, chunk
from runwire.stream.watch import Watch, WatchParts
from stream.feed import fresh_metrics, held, made_event
from stream.screen import Connected, Screen

TODAY = dt.date(2026, 1, 1)

Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "append",
                "publish",
                "publish",
                "lose",
                "hint",
                "repeat",
                "commit",
                "learn",
                "read",
                "flush",
                "flush",
                "hear",
                "hear",
                "join",
                "join",
                "leave",
                "lag",
                "beat",
                "look",
            ]
        ),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    min_size=20,  # else they are some five long, mostly
    max_size=60,
)


@dataclass(eq=False)
class Seat:
    """A client of the run; `start` is where it joined."""

    start: int
    cursor: int
    screen: Screen = field(default_factory=Screen)

    def __post_init__(self) -> None:
        self.outlet = self.screen.outlet
        self.joined = False

    def wake(self) -> None:
        self.joined = False


class Run:
    """The log, the publisher and the clients of one run, moved a step at a time. A read gives the log."""

    def __init__(self) -> None:
        self.log = [made_event(1)]
        self.published = 0  # on the bus
        self.committed = 0  # known by PostgreSQL to be; behind `published` after a crash
        self.seats: list[Seat] = []
        self.sender = held()
        reader = LogReader(Database("never opened"))
        self.watch = Watch(
            "run-1",
            WatchParts(
                bus=MemoryBus(),
                reader=reader,
                catch_up=CatchUp(reader),
                # Pieces of some events, written to one client a tick: much can happen in the middle of one.
                scheduler=Scheduler(self.sender, Deliveries(fresh_metrics()), slots_a_tick=1),
                limits=replace(StreamLimits.of(Settings(sse_ring_events=1000)), slice_bytes=700),
                metrics=fresh_metrics(),
            ),
        )

    def position(self) -> Position:
        return Position("run-1", TODAY, RunState.STARTED, len(self.log), self.committed)

    async def step(self, kind: str, a: int, b: int) -> None:
        watch = self.watch
        if kind == "append":
            self.log += [made_event(len(self.log) + 1 + i) for i in range(a + 1)]
        elif kind in ("publish", "lose", "hint"):
            first, last = self.published + 1, min(self.published + 1 + a, len(self.log))
            if first <= last:
                self.published = last
                if kind != "lose":
                    self.say(first, last, events=kind == "publish")
        elif kind == "repeat" and self.published:
            last = max(1, self.published - a)
            self.say(max(1, last - b), last, events=b % 2 == 0)
        elif kind == "commit":
            self.committed = max(self.committed, self.published - a)
        elif kind == "learn":
            watch.learn(self.position(), after_silence=a > 4)
        elif kind == "read" and (stretch := watch.tail.stretch_behind) is not None:
            watch.take(self.log[stretch.after : min(stretch.upto, stretch.after + 1 + a)])
        elif kind == "flush":
            await asyncio.sleep(0)
            self.let_transports_write(a)
        elif kind == "hear" and self.sender.under_way:
            if a % 2:
                self.sender.finish()
            else:
                self.sender.look()
            self.sender.on_room()
        elif kind == "join" and watch.tail.position is not None:
            await self.join(
                Seat(at := min(a * b, watch.tail.known), at, Connected(full=b % 2 == 0) if a % 2 else Screen())
            )
        elif kind == "leave":
            for seat in self.seats[a % 3 : a % 3 + b]:
                self.watch.fanout.leave(seat)
                seat.joined = False
        elif kind == "lag":
            for seat in self.seats[a % 3 : a % 3 + b]:
                seat.screen.stuck = 0 if seat.screen.stuck else 10**6
        elif kind == "beat":
            for seat in self.seats[a % 3 : a % 3 + b]:
                if seat.joined and not self.is_writing:
                    seat.outlet.write(chunk(HEARTBEAT) if seat.outlet.chunked else HEARTBEAT)
                    watch.fanout.to_transport(seat)
        await self.follow_up()

    @property
    def is_writing(self) -> bool:
        return self.watch.tail.position is not None and self.watch.fanout.writing

    def say(self, first: int, last: int, *, events: bool) -> None:
        self.watch.deliver(Published("run-1", first, last, tuple(self.log[first - 1 : last]) if events else None))

    async def join(self, seat: Seat) -> None:
        # Nothing has ever been trimmed from this ring but what was there before the first client: start where it does.
        if not self.watch.tail.ring.reaches(seat.cursor):
            seat.start = seat.cursor = self.watch.fanout.sent
        self.seats.append(seat)

    async def follow_up(self) -> None:
        """Plays the sessions: a client that was given back catches up and joins again, once nothing is under way."""
        for seat in self.seats:
            if not seat.joined and not seat.screen.stuck and not self.is_writing:
                while (piece := await self.watch.piece_after(seat.cursor)) is not None:
                    assert piece.first == seat.cursor + 1
                    seat.outlet.write(piece.bytes(chunked=seat.outlet.chunked))
                    seat.cursor = piece.last
                self.watch.fanout.join(seat)
                seat.joined = True

    def let_transports_write(self, nth: int) -> None:
        """Some get everything out, some one read's worth of room later, some nothing."""
        for n, seat in enumerate(self.seats):
            if isinstance(screen := seat.screen, Connected):
                if (n + nth) % 3:
                    screen.send(len(screen.held))
                if (n + nth) % 2:
                    screen.receive()

    def close(self) -> None:
        self.sender.close()
        for seat in self.seats:
            if isinstance(seat.screen, Connected):
                seat.screen.close()

    def check(self, *, at_all: bool, upto: int | None = None) -> None:
        """`at_all`: those who are connected read, too. In between, what they were sent fills their sockets."""
        for seat in self.seats:
            if isinstance(seat.screen, Connected) and not at_all:
                continue
            seqs = seat.screen.seqs
            assert seqs == list(range(seat.start + 1, seat.start + 1 + len(seqs)))
            assert not seqs or seqs[-1] <= max(self.published, self.committed)
            if upto is not None:
                assert seat.start + len(seqs) == max(upto, seat.start)


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_every_client_sees_every_published_event_once_and_in_order(steps: list[Step]) -> None:
    async def play() -> None:
        with closing(Run()) as run:
            for kind, a, b in steps:
                await run.step(kind, a, b)
                run.check(at_all=kind == "look")
            # The publisher gets through in the end, and the database says so, though the bus may have said nothing.
            run.published = run.committed = len(run.log)
            await run.step("join", 0, 0)
            await run.step("learn", 0, 0)
            for seat in run.seats:
                seat.screen.stuck = 0
            while run.watch.tail.stretch_behind is not None:
                await run.step("read", 9, 0)
            while run.watch.fanout.busy:
                await run.step("flush", 0, 0)
                await run.step("hear", 1, 0)
            await run.step("flush", 0, 0)
            run.check(at_all=True, upto=len(run.log))

    asyncio.run(play())
