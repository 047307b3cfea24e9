"""Whatever the bus loses, repeats or only hints at, and whenever PostgreSQL is asked: every client sees 1, 2, 3, ..."""

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
from runwire.stream.deliveries import Deliveries
from runwire.stream.hub import Hub
from runwire.stream.limits import Limits
from runwire.stream.reader import LogReader, Position
from runwire.stream.sse import HEARTBEAT, chunk
from runwire.stream.turns import Turns
from stream.feed import Held, fresh_metrics, made_event
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
    """A client at the hub; `start` is where it joined."""

    start: int
    cursor: int
    screen: Screen = field(default_factory=Screen)

    def __post_init__(self) -> None:
        self.outlet = self.screen.outlet
        self.with_hub = False

    def wake(self) -> None:
        self.with_hub = False


class Run:
    """The log, the publisher and the clients of one run, moved a step at a time. What a read would give is the log."""

    def __init__(self) -> None:
        self.log = [made_event(1)]
        self.published = 0  # on the bus
        self.committed = 0  # known by PostgreSQL to be; behind `published` after a crash
        self.seats: list[Seat] = []
        self.metrics = fresh_metrics()
        self.writes = Held(Deliveries(self.metrics), few=0)
        self.hub = Hub(
            "run-1",
            bus=MemoryBus(),
            reader=LogReader(Database("never opened")),
            metrics=self.metrics,
            # Pieces of some events, written to one client a turn: much can happen in the middle of one.
            limits=replace(Limits.of(Settings(sse_ring_events=1000)), slice_bytes=700),
            on_behind=lambda _hub: None,
            turns=Turns(self.writes, writes_a_turn=1),
        )

    def position(self) -> Position:
        return Position("run-1", TODAY, RunState.STARTED, len(self.log), self.committed)

    async def step(self, kind: str, a: int, b: int) -> None:
        hub = self.hub
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
            hub.learn(self.position(), after_silence=a > 4)
        elif kind == "read" and (stretch := hub.stretch_behind) is not None:
            hub.take(self.log[stretch.after : min(stretch.upto, stretch.after + 1 + a)])
        elif kind == "flush":
            await asyncio.sleep(0)
            self.let_transports_write(a)
        elif kind == "hear" and self.writes.under_way:
            if a % 2:
                self.writes.finish()
            else:
                self.writes.look()
            self.writes.on_room()
        elif kind == "join" and hub.position is not None:
            await self.join(Seat(at := min(a * b, hub.known), at, Connected(full=b % 2 == 0) if a % 2 else Screen()))
        elif kind == "leave":
            for seat in self.seats[a % 3 : a % 3 + b]:
                self.hub.unfollow(seat)
                seat.with_hub = False
        elif kind == "lag":
            for seat in self.seats[a % 3 : a % 3 + b]:
                seat.screen.stuck = 0 if seat.screen.stuck else 10**6
        elif kind == "beat":
            for seat in self.seats[a % 3 : a % 3 + b]:
                if seat.with_hub and not hub.writing:
                    seat.outlet.write(chunk(HEARTBEAT) if seat.outlet.chunked else HEARTBEAT)
                    hub.goes_by_transport(seat)
        await self.follow_up()

    def say(self, first: int, last: int, *, events: bool) -> None:
        self.hub.deliver(Published("run-1", first, last, tuple(self.log[first - 1 : last]) if events else None))

    async def join(self, seat: Seat) -> None:
        # Nothing has ever been trimmed from this ring but what was there before the first client: start where it does.
        if not self.hub._ring.reaches(seat.cursor):
            seat.start = seat.cursor = self.hub.sent
        self.seats.append(seat)

    async def follow_up(self) -> None:
        """What each stream's own loop does when it was given back, what is under way has come, and its client reads."""
        for seat in self.seats:
            if not seat.with_hub and not seat.screen.stuck and not self.hub.writing:
                while (piece := await self.hub.slice_after(seat.cursor)) is not None:
                    assert piece.first == seat.cursor + 1
                    seat.outlet.write(piece.bytes(chunked=seat.outlet.chunked))
                    seat.cursor = piece.last
                self.hub.follow(seat)
                seat.with_hub = True

    def let_transports_write(self, nth: int) -> None:
        """Some get everything out, some one read's worth of room later, some nothing."""
        for n, seat in enumerate(self.seats):
            if isinstance(screen := seat.screen, Connected):
                if (n + nth) % 3:
                    screen.send(len(screen.held))
                if (n + nth) % 2:
                    screen.receive()

    def close(self) -> None:
        self.writes.close()
        for seat in self.seats:
            if isinstance(seat.screen, Connected):
                seat.screen.close()

    def check(self, *, at_all: bool, upto: int | None = None) -> None:
        """`at_all`: those who are connected read, too. In between, what they were sent fills their sockets."""
        sockets = [*self.hub._following.values(), *self.hub._waiting.values()]
        assert self.hub._by_transport == sockets.count(None)
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
            while run.hub.stretch_behind is not None:
                await run.step("read", 9, 0)
            while run.hub.flush_due or run.hub.writing:
                await run.step("flush", 0, 0)
                await run.step("hear", 1, 0)
            await run.step("flush", 0, 0)
            run.check(at_all=True, upto=len(run.log))

    asyncio.run(play())
