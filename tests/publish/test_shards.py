"""Several publishers share the runs: each run has one, also while they join, leave, die and stand still."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

from pipeline import RecordingBus, Stages, Through, stages
from runwire.bus import Published
from runwire.clock import monotonic
from runwire.db import Database, Session
from runwire.model.event import Source, debug_trace
from runwire.observe import Observer, ObserverMetrics
from runwire.publish import Publisher, PublishWorker, Shards
from runwire.publish.assignment import SHARDS, shard_of
from runwire.publish.settings import PublishSettings
from waiting import eventually

ALL = frozenset(range(SHARDS))


@dataclass
class One:
    """A publisher with its bus, to be stepped or run."""

    shards: Shards
    publisher: Publisher
    bus: RecordingBus
    sessions: list[Session]

    async def step(self) -> bool:
        return await self.shards.step(let_go=self.publisher.let_go)

    async def die(self) -> None:
        """Its connections are gone, and nothing was said."""
        for session in self.sessions:
            session.drop()


@asynccontextmanager
async def several(
    s: Stages, *names: str, lease_s: float = 60.0, buses: Mapping[str, RecordingBus] | None = None
) -> AsyncIterator[list[One]]:
    """`buses` are those of some publishers, by name."""
    found = []
    for name in names:
        bus = (buses or {}).get(name) or RecordingBus()
        sessions: list[Session] = []

        def kept(session: Session, sessions: list[Session] = sessions) -> Session:
            sessions.append(session)
            return session

        database = cast("Database", Through(s.database, kept))
        shards = Shards(database, publisher_id=name, lease_s=lease_s)
        publisher = s.publisher(bus, publisher_id=name, shards=shards, database=database)
        found.append(One(shards, publisher, bus, sessions))
    try:
        yield found
    finally:
        for one in found:
            await one.publisher.aclose()
            await one.shards.aclose()


async def owners(s: Stages) -> dict[str | None, int]:
    rows = await s.database.fetch("SELECT publisher_id, count(*) AS n FROM publisher_shards GROUP BY 1")
    return {row["publisher_id"]: row["n"] for row in rows}


async def written(s: Stages, *run_ids: str) -> dict[str, int]:
    return {run_id: await s.started_run(run_id) for run_id in run_ids}


async def test_a_single_publisher_has_every_shard_after_one_step(database: str) -> None:
    async with stages(database) as s, several(s, "a") as [a]:
        assert await a.step()
        assert a.shards.owned == ALL
        assert not await a.step(), "and there is nothing left to take"


async def test_who_joins_gets_its_part_once_the_other_has_let_go(database: str) -> None:
    async with stages(database) as s, several(s, "a", "b") as [a, b]:
        await a.step()
        assert not await b.step(), "nothing is taken from the living"
        await a.step()
        assert await owners(s) == {"a": 64, None: 64}
        assert await b.step()
        assert await owners(s) == {"a": 64, "b": 64}
        assert (a.shards.owned | b.shards.owned, a.shards.owned & b.shards.owned) == (ALL, frozenset())


async def test_shards_are_released_only_when_what_was_claimed_is_out(database: str) -> None:
    class Held(RecordingBus):
        entered, open = asyncio.Event(), asyncio.Event()

        async def publish(self, messages: Sequence[Published]) -> None:
            self.entered.set()
            await self.open.wait()
            await super().publish(messages)

    held = Held()
    async with stages(database) as s, several(s, "a", "b", buses={"a": held}) as [a, b]:
        await a.step()
        await b.step()
        await written(s, *(f"r{n}" for n in range(20)))
        a.publisher.mark_dirty([f"r{n}" for n in range(20)], by="local")
        publishing = asyncio.create_task(a.publisher.publish_pending())
        await held.entered.wait()
        releasing = asyncio.create_task(a.step())
        await eventually(lambda: len(a.shards.owned) == 64)
        assert not await b.step()
        assert await owners(s) == {"a": 128}, "it has let go of nothing yet"
        held.open.set()
        assert await publishing == 20
        await releasing
        assert await b.step()
        assert await owners(s) == {"a": 64, "b": 64}


async def test_hints_for_runs_of_others_are_given_back_and_nothing_of_them_is_claimed(database: str) -> None:
    async with stages(database) as s, several(s, "a", "b") as [a, b]:
        for one in (a, b, a, b):
            await one.step()
        run_ids = [f"r{n}" for n in range(40)]
        await written(s, *run_ids)
        of_b = a.publisher.mark_dirty(run_ids, by="local")
        assert of_b == [run_id for run_id in run_ids if shard_of(run_id) in b.shards.owned]
        assert await a.publisher.publish_pending() == 40 - len(of_b)
        assert b.publisher.mark_dirty(of_b, by="notify") == []
        assert await b.publisher.publish_pending() == len(of_b)
        assert {m.run_id for m in a.bus.messages} & set(of_b) == set()
        assert await a.publisher.sweep() == await b.publisher.sweep() == 0


async def test_the_sweep_finds_the_runs_of_its_own_shards_only(database: str) -> None:
    async with stages(database) as s, several(s, "a", "b") as [a, b]:
        for one in (a, b, a, b):
            await one.step()
        run_ids = [f"r{n}" for n in range(40)]
        await written(s, *run_ids)
        assert await a.publisher.sweep() + await b.publisher.sweep() == 40
        assert await a.publisher.publish_pending() + await b.publisher.publish_pending() == 40
        assert {m.run_id for m in a.bus.messages}.isdisjoint(m.run_id for m in b.bus.messages)


async def test_what_a_dead_publisher_had_is_taken_in_one_step_however_long_its_lease(database: str) -> None:
    async with stages(database) as s, several(s, "a", "b", lease_s=3600) as [a, b]:
        for one in (a, b, a, b):
            await one.step()
        await a.die()

        async def taken() -> bool:  # once the server has noticed
            await b.step()
            return b.shards.owned == ALL

        await eventually(taken)
        assert await owners(s) == {"b": 128}
        rows = await s.database.fetch("SELECT publisher_id, shards FROM publishers WHERE lease_until IS NOT NULL")
        assert [row["publisher_id"] for row in rows] == ["b"]


async def test_who_stood_still_past_its_lease_publishes_nothing_of_what_others_have_now(database: str) -> None:
    async with stages(database) as s, several(s, "a", "b", lease_s=0.5) as [a, b]:
        await a.step()
        assert a.shards.owned == ALL
        await asyncio.sleep(0.6)  # as long as its lease: it stands still
        assert await b.step()
        assert await owners(s) == {"b": 128}
        await written(s, "r1", "r2")
        a.publisher.mark_dirty(["r1", "r2"], by="local")  # it wakes up, and believes that all is as it was
        assert await a.publisher.publish_pending() == 0
        assert a.bus.messages == []
        b.publisher.mark_dirty(["r1", "r2"], by="notify")
        assert await b.publisher.publish_pending() == 2
        await a.step()
        assert a.shards.owned == frozenset(), "it asks for its part like any other"


async def test_a_publisher_whose_connection_was_cut_goes_on_with_what_it_had(database: str) -> None:
    async with stages(database) as s, several(s, "a") as [a]:
        await a.step()
        await a.die()
        await a.step()
        assert a.shards.owned == ALL
        async with several(s, "b") as [b]:
            await b.step()
            assert b.shards.owned == frozenset(), "its new connection holds a lock of its own"


async def test_one_that_leaves_on_purpose_frees_its_shards_at_once(database: str) -> None:
    async with stages(database) as s, several(s, "a", "b") as [a, b]:
        for one in (a, b, a, b):
            await one.step()
        await a.publisher.retire()
        await b.step()
        assert b.shards.owned == ALL


async def test_the_observer_tells_of_two_that_claim_the_same_shard(database: str) -> None:
    async with stages(database) as s, several(s, "a", "b") as [a, b]:
        observer = Observer(s.database, ObserverMetrics(s.metrics.out))

        async def most() -> float | None:
            await observer.observe()
            return s.metrics.out.registry.get_sample_value("runwire_publishers_per_shard_max")

        assert await most() == 0
        for one in (a, b, a, b):
            await one.step()
        assert await most() == 1
        await s.database.execute("INSERT INTO publishers (publisher_id) VALUES ('of an older version')")
        assert await most() == 2


async def test_under_load_one_of_three_dies_and_every_run_goes_on_in_order_within_seconds(database: str) -> None:
    """At least once, in order, none forgotten; and who lives has everything soon after."""
    async with stages(database) as s:
        bus = RecordingBus()
        workers: list[PublishWorker] = []
        running: list[asyncio.Task[None]] = []
        parts: list[Shards] = []

        def tell_all() -> None:
            for shards in parts:
                shards.wake()

        for name in ("a", "b", "c"):
            shards = Shards(s.database, publisher_id=name, lease_s=4.0, tell_others=tell_all)
            publisher = s.publisher(bus, publisher_id=name, shards=shards)
            parts.append(shards)
            workers.append(PublishWorker(publisher, shards=shards, settings=PublishSettings(publish_sweep_s=0.5)))
            running.append(asyncio.create_task(workers[-1].run()))
        await eventually(lambda: sorted(len(shards.owned) for shards in parts) == [42, 43, 43])
        fences = await written(s, *(f"r{n}" for n in range(60)))
        rng = random.Random(1)
        appended = dict.fromkeys(fences, 1)

        async def load(until: float) -> None:
            while monotonic() < until:
                run_id = rng.choice(sorted(fences))
                await s.log.append(run_id, [debug_trace("x")] * 3, fence=fences[run_id], source=Source.API)
                appended[run_id] += 3
                others = [run_id]
                for worker in workers:
                    others = worker.mark_dirty(others, by="notify")

        loading = asyncio.create_task(load(monotonic() + 4.0))
        await asyncio.sleep(1.0)
        running[0].cancel()  # nothing is said, and its connections end
        await asyncio.gather(running[0], return_exceptions=True)
        died = monotonic()
        await eventually(lambda: parts[1].owned | parts[2].owned == ALL, within_s=5)
        took_s = monotonic() - died
        await loading
        await eventually(lambda: all(set(bus.seqs(r)) == set(range(1, n + 1)) for r, n in appended.items()))
        for worker in workers[1:]:
            worker.stop()
        await asyncio.gather(*running[1:])
        assert took_s < 5
        for run_id, last in appended.items():
            seqs = bus.seqs(run_id)
            fresh = [seq for n, seq in enumerate(seqs) if seq > max(seqs[:n], default=0)]
            assert fresh == list(range(1, last + 1)), "never seq + 1 before seq"
        repeats = sum(len(bus.seqs(run_id)) - last for run_id, last in appended.items())
        assert repeats <= 200, "at most what the dead one had in hand"
        assert await owners(s) == {None: 128}


async def test_runs_are_divided_in_the_order_they_came_in(database: str) -> None:
    """The order is who waits longest: a publisher that forgot it would let runs starve."""
    async with stages(database) as s:
        shards = Shards(s.database, publisher_id="a", lease_s=4.0)
        shards.owned = frozenset(range(64))
        run_ids = [f"r{n}" for n in range(200)]
        ours, others = shards.divide(run_ids)
        assert ours == [run_id for run_id in run_ids if shard_of(run_id) < 64]
        assert others == [run_id for run_id in run_ids if shard_of(run_id) >= 64]
        assert min(len(ours), len(others)) > 0
        shards.owned = frozenset(range(128))
        assert shards.divide(run_ids) == (run_ids, [])
        await shards.aclose()
