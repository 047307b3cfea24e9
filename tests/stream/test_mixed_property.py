"""Clients of mixed streams against a model: whatever is written, sealed, begun again, lost, late or resumed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from runwire.bus.memory import MemoryBus
from runwire.content.part_feed import PartFeed
from runwire.content.part_writer import Written
from runwire.db import Database
from runwire.model.text import whole_characters
from runwire.telemetry.metrics import DisconnectReason
from stream.mixed_feed import MixedClient, MixedReplica, PartsFeed, mixed_replica
from stream.screen import Screen
from waiting import eventually

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("write", "write", "write", "write", "hint", "silent", "late", "tell late", "event", "lose event"),
                *("open", "seal", "retry", "late end", "late retry", "drop", "drop", "rotate", "stall", "pause"),
            ]
        ),
        st.integers(0, 99),
        st.integers(0, 99),
    ),
    min_size=15,
    max_size=45,
)
PARTS = 3
TEXT = "aß世🚀\n".encode()


class ToAll(PartFeed):
    """News for the feeds of all replicas, or for one of them."""

    def __init__(self, feeds: list[PartFeed]) -> None:
        super().__init__()
        self.feeds = feeds

    def written(self, written: list[Written]) -> None:  # type: ignore[override]
        for feed in self.feeds:
            feed.written(written)

    def hint(self, run_ids: list[str]) -> None:  # type: ignore[override]
        for feed in self.feeds:
            feed.hint(run_ids)


@dataclass
class Viewer:
    """A client that is connected but for moments, to one replica after the other."""

    replicas: list[MixedReplica]
    run_id: str
    client: MixedClient
    at: int = 0
    screen: Screen = field(default_factory=Screen)
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def connect(self) -> None:
        self.screen = Screen()
        self.stack = contextlib.AsyncExitStack()
        where = self.replicas[self.at % 2]
        await self.stack.enter_async_context(self.client.connected(where, run_id=self.run_id, screen=self.screen))

    async def drop(self, *, keep: int | None = None) -> None:
        """Loses the connection; the client had taken so many blocks of what was written."""
        await self.stack.aclose()
        self.client.take(self.screen, most=keep)
        self.at += 1

    async def drop_amid(self, n: int) -> None:
        await self.drop(keep=n % (len(self.screen.blocks) + 1) if self.screen.writes else 0)
        await self.connect()

    def sees(self, content: dict[int, bytes], events: int) -> bool:
        client = self.client
        seen = MixedClient(client.names, client.last_id, list(client.seqs), dict(client.content), dict(client.attempts))
        seen.take(self.screen)
        chosen = {n: data for n, data in content.items() if client.names is None or f"p{n}" in client.names}
        shown = {n: data for n, data in seen.content.items() if client.names is None or f"p{n}" in client.names}
        assert (shown, len(seen.seqs)) == (chosen, events), (shown, chosen, len(seen.seqs), events)
        return True


async def play(replicas: list[MixedReplica], run: PartsFeed, steps: list[tuple[str, int, int]], seed: int) -> None:
    rng = random.Random(seed)
    states: dict[int, str] = {}
    viewers = [Viewer(replicas, run.run_id, MixedClient(names)) for names in (None, None, frozenset({"p1", "p3"}))]
    viewers[1].at = 1
    for viewer in viewers:
        await viewer.connect()
    for kind, a, b in steps:
        n = 1 + a % PARTS
        data = bytes(rng.choices(TEXT, k=1 + b % 9)) if n == 3 else (TEXT * 3)[b % 5 : b % 5 + 1 + b % 11]
        if kind in ("write", "hint", "silent", "late") and states.get(n) == "open":
            tell = {"write": "bytes", "hint": "hint", "silent": "nothing", "late": "late"}[kind]
            await run.write(data, n, tell=tell)
        elif kind == "tell late":
            run.catch_up()
        elif kind == "event":
            await run.append(1 + b % 2)
            await run.publish()
        elif kind == "lose event":
            await run.lose_on_bus(1)
        elif kind == "open" and n not in states:
            await run.open(n, media_type="image/png" if n == 3 else "text/plain")
            states[n] = "open"
        elif kind in ("seal", "late end") and states.get(n) == "open":
            await run.end_part(n, publish=kind == "seal")
            states[n] = "sealed"
            if kind == "late end":  # on the bus before PostgreSQL says so
                await run.to_bus(run.published + 1, len(run.events))
                await viewers[b % 3].drop_amid(b)
                await run.commit(len(run.events))
        elif kind in ("retry", "late retry") and states.get(n) == "open":
            late = kind == "late retry"
            await run.end_part(n, state="abandoned", publish=not late)
            await run.open(n, media_type="image/png" if n == 3 else "text/plain", publish=not late)
            await run.write(data, n, tell="bytes" if b % 2 else "nothing")
            if late:
                await run.publish()
        elif kind == "drop":
            await viewers[a % 3].drop_amid(b)
        elif kind == "rotate":
            for session in replicas[a % 2].one.streams.sessions:
                session.ask_to_end(DisconnectReason.ROTATE)
            for viewer in [each for each in viewers if each.at % 2 == a % 2]:
                await eventually(lambda viewer=viewer: viewer.screen.reason, within_s=20)  # type: ignore[misc]
                await viewer.drop()
                await viewer.connect()
        elif kind == "stall":
            viewers[a % 3].screen.stuck = 10**6 if b % 2 else 0
        elif kind == "pause":
            await asyncio.sleep(0.01 * (b % 3))
    for where in replicas:
        where.one.streams.recheck()
    for viewer in viewers:
        viewer.screen.stuck = 0

        def told(viewer: Viewer = viewer) -> bool:
            # Half a character at the end of an open text comes with its rest, or with the end of the part.
            content = {
                n: data if states[n] == "sealed" or n == 3 else whole_characters(data)
                for n, data in run.written.items()
            }
            return viewer.sees(content, len(run.events))

        await eventually(told, within_s=20)
        await viewer.drop()


@contextlib.asynccontextmanager
async def world(db: Database) -> AsyncIterator[tuple[MemoryBus, list[MixedReplica]]]:
    bus = MemoryBus()
    few = {"sse_ring_events": 4, "sse_silence_s": 0.3, "sse_slow_bytes": 65_536}
    async with mixed_replica(db, bus, **few) as here, mixed_replica(db, bus, **few) as there:
        yield bus, [here, there]


async def test_every_client_has_each_event_and_byte_once_wherever_it_goes_on(db: Database) -> None:
    loop = asyncio.get_running_loop()
    stories = 0
    async with world(db) as (bus, replicas):

        @settings(
            max_examples=8,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        )
        @given(STEPS, st.integers(0, 1000))
        def tell(steps: list[tuple[str, int, int]], seed: int) -> None:
            nonlocal stories
            stories += 1

            async def story() -> None:
                run = PartsFeed(db, bus, ToAll([each.feed for each in replicas]), run_id=f"s{stories}")
                await run.start()
                await run.add(1)
                await play(replicas, run, steps, seed)

            asyncio.run_coroutine_threadsafe(story(), loop).result(120)

        await asyncio.to_thread(tell)
