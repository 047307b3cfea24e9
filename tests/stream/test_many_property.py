"""Clients of many runs against a model: whatever is appended, lost, dropped, rotated, resumed here or there."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runwire.bus.memory import MemoryBus
from runwire.db import Database
from runwire.stream.many import Selector
from runwire.telemetry.metrics import DisconnectReason
from stream.feed import Feed
from stream.many_client import ManyClient, Replica, replica
from stream.screen import Screen
from waiting import eventually

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("append", "append", "append", "lose", "late", "end", "start"),
                *("drop", "resume any", "rotate", "look", "pause"),
            ]
        ),
        st.integers(0, 99),
        st.integers(0, 99),
    ),
    min_size=15,
    max_size=40,
)
RUNS = 16  # more than an id names without a checkpoint


@dataclass
class Story:
    """A database with the runs of one session, two processes, and a client of each kind."""

    db: Database
    bus: MemoryBus
    replicas: list[Replica]
    name: str
    feeds: list[Feed] = field(default_factory=list)

    async def start(self) -> Feed:
        feed = await Feed(self.db, self.bus, run_id=f"{self.name}-{len(self.feeds):03}").start()
        await self.db.execute("UPDATE runs SET session = $2 WHERE run_id = $1", feed.run_id, self.name)
        self.feeds.append(feed)
        return feed

    def is_over(self, feed: Feed) -> bool:
        return bool(feed.events) and feed.events[-1].type == "RunFinished"

    def whole(self, runs: list[Feed]) -> dict[str, list[int | str]]:
        told: dict[str, list[int | str]] = {}
        for feed in runs:
            seqs: list[int | str] = [event.seq for event in feed.events]
            if seqs:
                told[feed.run_id] = [*seqs, "finished"] if self.is_over(feed) else seqs
        return told


class Follower:
    """A client that is connected but for moments. It checks each id's promise as it goes."""

    def __init__(self, story: Story, selector: Selector) -> None:
        self.story = story
        self.client = ManyClient(selector)
        self.screen = Screen()
        self.at = 0
        self._stack = contextlib.AsyncExitStack()

    async def connect(self) -> None:
        self.screen = Screen()
        self._stack = contextlib.AsyncExitStack()
        where = self.story.replicas[self.at % 2]
        await self._stack.enter_async_context(self.client.connected(where, screen=self.screen))

    def is_cut(self) -> bool:
        """The stream has ended, or never was."""
        return self.screen.reason is not None or self.client.nothing_left

    async def drop(self, *, keep: int | None = None) -> None:
        """Loses the connection; the client had taken so many blocks of what was written."""
        await self._stack.aclose()
        self.client.take(self.screen, most=keep)
        self.at += 1

    async def drop_amid(self, n: int) -> None:
        await self.drop(keep=n % (len(self.screen.blocks) + 1) if self.screen.writes else 0)
        await self.connect()

    async def forget_back_to(self, n: int) -> None:
        """Goes on from an earlier id, as a page does that was restored with what it had shown by then."""
        await self.drop()
        if self.client.ids:
            made, told = self.client.ids[n % len(self.client.ids)]
            self.client.last_id = made
            self.client.seen = {run: of[: told.get(run, 0)] for run, of in self.client.seen.items() if told.get(run)}
            del self.client.ids[n % len(self.client.ids) + 1 :]
        await self.connect()


async def play(story: Story, steps: list[tuple[str, int, int]], seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(RUNS):
        await (await story.start()).add(rng.randrange(1, 3))
    fixed = list(story.feeds)
    everybody = Follower(story, Selector(session=story.name))
    some = Follower(story, Selector(runs=tuple(feed.run_id for feed in fixed)))
    followers = (everybody, some)
    for follower in followers:
        await follower.connect()
    for kind, a, b in steps:
        feed = story.feeds[a % len(story.feeds)]
        if kind in ("append", "lose", "late", "end") and story.is_over(feed):
            continue
        if kind == "append":
            await feed.append(1 + b % 3)
            await feed.publish()
        elif kind == "lose":
            await feed.lose_on_bus(1 + b % 2)
        elif kind == "late":  # on the bus before PostgreSQL says so
            await feed.append(1)
            await feed.to_bus(feed.published + 1, len(feed.events))
            await followers[b % 2].drop_amid(b)
            await feed.commit(len(feed.events))
        elif kind == "end":
            await feed.add(1 + b % 2, end="finished")
        elif kind == "start":
            await (await story.start()).add(1 + b % 2)
        elif kind == "drop":
            await followers[a % 2].drop_amid(b)
        elif kind == "resume any":
            await followers[a % 2].forget_back_to(b)
        elif kind == "rotate":
            for session in story.replicas[a % 2].one.streams.sessions:
                session.ask_to_end(DisconnectReason.ROTATE)
            for each in [each for each in followers if each.at % 2 == a % 2]:
                await eventually(each.is_cut)
                await each.drop()
                await each.connect()
        elif kind == "look":
            for where in story.replicas:
                where.many.look_soon()
        else:
            await asyncio.sleep(0)
    for follower, runs in ((everybody, story.feeds), (some, fixed)):

        def caught_up(follower: Follower = follower, runs: list[Feed] = runs) -> bool:
            told = ManyClient(
                follower.client.selector, seen={run: list(of) for run, of in follower.client.seen.items()}
            )
            told.take(follower.screen)
            assert told.seen == story.whole(runs), (told.seen, story.whole(runs))
            return True

        for where in story.replicas:
            where.one.streams.recheck()
            where.many.look_soon()
        await eventually(caught_up, within_s=20)
        await follower.drop()


@contextlib.asynccontextmanager
async def world(db: Database) -> AsyncIterator[tuple[MemoryBus, list[Replica]]]:
    bus = MemoryBus()
    # A few events in memory only, and a look at PostgreSQL soon after the bus fell silent.
    few = {"sse_ring_events": 4, "sse_silence_s": 0.3}
    async with replica(db, bus, **few) as here, replica(db, bus, **few) as there:
        yield bus, [here, there]


async def test_every_client_is_told_everything_once_wherever_it_goes_on(db: Database) -> None:
    loop = asyncio.get_running_loop()
    stories = 0
    async with world(db) as (bus, replicas):

        @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
        @given(STEPS, st.integers(0, 1000))
        def tell(steps: list[tuple[str, int, int]], seed: int) -> None:
            nonlocal stories
            stories += 1
            story = Story(db, bus, replicas, f"s{stories}")
            asyncio.run_coroutine_threadsafe(play(story, steps, seed), loop).result(90)

        await asyncio.to_thread(tell)
