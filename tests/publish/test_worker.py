"""The publisher's loop: it wakes when there is work, backs off when that fails, and leaves nothing when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import aclosing
from itertools import pairwise
from typing import Any

import pytest

from pipeline import RecordingBus, running, stages
from runwire.clock import monotonic
from runwire.model.event import Source, debug_trace
from runwire.publish import Publisher, PublishWorker
from runwire.publish.settings import PublishSettings
from runwire.publish.worker import KEEP_UP_S
from waiting import eventually


def looping(publisher: Publisher, **settings: Any) -> PublishWorker:
    return PublishWorker(publisher, settings=PublishSettings(**settings))


class NotingPublisher(Publisher):
    """Says when it has swept."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.swept = asyncio.Event()

    async def sweep(self) -> int:
        found = await super().sweep()
        self.swept.set()
        return found


class TrustingPublisher(Publisher):
    """Believes that hints tell of everything."""

    async def sweep(self) -> int:
        return 0


async def at_once(call: Coroutine[Any, Any, None]) -> None:
    """Fails unless the call returns without waiting for anything."""
    task = asyncio.create_task(call)
    await asyncio.sleep(0)
    assert task.done()


async def test_a_publisher_that_sweeps_rarely_says_that_it_lives_all_the_same(database: str) -> None:
    async with stages(database) as pipeline:
        beats = set()

        async def three_beats() -> bool:
            beats.update(await pipeline.database.fetch("SELECT heartbeat_at FROM publishers"))
            return len(beats) >= 3

        async with running(
            PublishWorker(
                pipeline.publisher(RecordingBus()),
                settings=PublishSettings(publish_sweep_s=60, publish_heartbeat_s=0.05),
            )
        ):
            await eventually(three_beats)


async def test_what_is_marked_dirty_goes_out_without_waiting_for_a_sweep(database: str) -> None:
    async with stages(database) as s:
        bus = RecordingBus()
        publisher = s.publisher(bus, kind=NotingPublisher)
        assert isinstance(publisher, NotingPublisher)
        worker = looping(publisher, publish_sweep_s=60)
        async with running(worker):
            await asyncio.wait_for(publisher.swept.wait(), 10)
            await s.started_run("r")
            worker.mark_dirty(["r"])
            await eventually(lambda: bus.seqs("r") == [1])


async def test_what_no_hint_told_of_goes_out_by_the_sweep(database: str) -> None:
    async with stages(database) as s:
        bus = RecordingBus()
        async with running(looping(s.publisher(bus), publish_sweep_s=0.05)):
            await s.started_run("r")
            await eventually(lambda: bus.seqs("r") == [1])


async def test_a_sweep_that_is_asked_for_comes_at_once(database: str) -> None:
    async with stages(database) as s:
        bus = RecordingBus()
        publisher = s.publisher(bus, kind=NotingPublisher)
        assert isinstance(publisher, NotingPublisher)
        worker = looping(publisher, publish_sweep_s=60)
        async with running(worker):
            await asyncio.wait_for(publisher.swept.wait(), 10)
            await s.started_run("r")
            worker.sweep_soon()
            await eventually(lambda: bus.seqs("r") == [1])


async def test_appends_wait_for_a_publisher_that_is_behind_until_it_has_caught_up(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runwire.publish.worker.KEEP_UP_S", 60)
    async with stages(database) as s:
        fence = await s.started_run("r")
        await s.log.append("r", [debug_trace("a.b")] * 6, fence=fence, source=Source.API)
        async with aclosing(s.publisher(RecordingBus(), publish_batch_events=3)) as publisher:
            worker = looping(publisher, publish_sweep_s=60)
            await at_once(worker.keep_up())  # nothing is known to be behind
            worker.mark_dirty(["r"])
            assert await worker.step() == 3
            held_back = asyncio.create_task(worker.keep_up())
            assert await worker.step() == 3
            assert not held_back.done()
            assert await worker.step() == 1
            await asyncio.wait_for(held_back, 10)


async def test_more_runs_than_go_out_in_two_steps_hold_appends_back_but_not_for_long(database: str) -> None:
    async with stages(database) as s, aclosing(s.publisher(RecordingBus(), publish_batch_runs=1)) as publisher:
        worker = looping(publisher, publish_sweep_s=60)
        worker.mark_dirty(["a", "b"])
        await at_once(worker.keep_up())
        worker.mark_dirty(["c", "d"])
        began = monotonic()
        await worker.keep_up()  # nobody steps, as if the bus had hung
        assert monotonic() - began >= KEEP_UP_S * 0.9
        await at_once(worker.keep_up())  # and it is not waited for again
        await worker.step()
        held_back = asyncio.create_task(worker.keep_up())
        await asyncio.sleep(0)
        assert not held_back.done()
        await worker.step()
        await asyncio.wait_for(held_back, 10)


async def test_appends_do_not_wait_for_a_publisher_that_fails(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runwire.publish.worker.KEEP_UP_S", 60)
    async with stages(database) as s:
        fence = await s.started_run("r")
        await s.log.append("r", [debug_trace("a.b")] * 6, fence=fence, source=Source.API)
        refused: list[int] = []
        bus = RecordingBus(refuse=lambda _message: bool(refused))
        async with aclosing(s.publisher(bus, publish_batch_events=3)) as publisher:
            worker = looping(publisher, publish_sweep_s=60)
            worker.mark_dirty(["r"])
            await worker.step()
            held_back = asyncio.create_task(worker.keep_up())
            refused.append(1)
            assert await worker.step() == 0
            await asyncio.wait_for(held_back, 10)
            await at_once(worker.keep_up())


async def test_stopping_publishes_the_rest_though_a_step_finds_nothing(database: str) -> None:
    """Hints may be of runs that somebody else has published: such a batch is no sign that there is no other."""
    async with stages(database) as s:
        await s.started_run("r")
        bus = RecordingBus()
        worker = PublishWorker(
            s.publisher(bus, publish_batch_runs=2, kind=TrustingPublisher), settings=PublishSettings(publish_sweep_s=60)
        )
        worker.mark_dirty(["nothing-new-1", "nothing-new-2", "nothing-new-3", "r"])
        worker.stop()
        await worker.run()
        assert bus.seqs("r") == [1]


async def test_stopping_publishes_the_rest_though_one_run_is_poisoned(database: str) -> None:
    async with stages(database) as s:
        for run_id in ("poisoned", "a", "b"):
            await s.started_run(run_id)
        bus = RecordingBus(refuse=lambda message: message.run_id == "poisoned")
        worker = looping(s.publisher(bus, kind=TrustingPublisher), publish_sweep_s=60)
        worker.mark_dirty(["poisoned", "a", "b"])
        worker.stop()
        await worker.run()
        assert (set(bus.seqs("a")), set(bus.seqs("b"))) == ({1}, {1})


async def test_stopping_gives_up_when_the_bus_is_gone(database: str) -> None:
    async with stages(database) as s:
        for n in range(50):
            await s.started_run(f"r{n}")
        worker = PublishWorker(s.publisher(RecordingBus(refuse=lambda _message: True)))
        worker.stop()
        await asyncio.wait_for(worker.run(), 3)
        assert await s.database.fetchval("SELECT count(*) FROM run_outbox WHERE next_seq = 1") == 50


async def test_while_the_bus_fails_tries_are_apart_but_never_further_than_the_bound(database: str) -> None:
    async with stages(database) as s:
        await s.started_run("r")
        tries: list[float] = []

        def refuse(_message: object) -> bool:
            tries.append(monotonic())
            return True

        bus = RecordingBus(refuse=refuse)
        worker = PublishWorker(
            s.publisher(bus, publish_backoff_max_s=1e-9),
            settings=PublishSettings(publish_sweep_s=60, publish_heartbeat_s=0.05, publish_backoff_max_s=0.08),
        )

        async def healthy() -> bool:
            return await s.database.fetchval("SELECT failing_code IS NULL FROM publishers") is True

        async with running(worker):
            worker.mark_dirty(["r"])
            await eventually(lambda: len(tries) >= 12)
            gaps = [later - earlier for earlier, later in pairwise(tries)]
            assert min(gaps) >= 0.009
            assert min(gaps[4:]) >= 0.039
            assert len({round(gap, 3) for gap in gaps[4:]}) > 1, "all publishers would come back at once"
            bus.refuse = lambda _message: False
            await eventually(lambda: bus.seqs("r") == [1], within_s=2)
            await eventually(healthy)


async def test_wake_ups_do_not_shorten_the_pause_after_a_failure(database: str) -> None:
    async with stages(database) as s:
        await s.started_run("r")
        tries: list[float] = []

        def refuse(_message: object) -> bool:
            tries.append(monotonic())
            return True

        worker = PublishWorker(
            s.publisher(RecordingBus(refuse=refuse), publish_backoff_max_s=1e-9),
            settings=PublishSettings(publish_sweep_s=60),
        )
        async with running(worker):
            deadline = monotonic() + 0.4
            while monotonic() < deadline:
                worker.mark_dirty(["r"])
                await asyncio.sleep(0)
            assert 1 < len(tries) < 10  # 10, 20, 40, 80, 160 ms apart, at most halved by jitter


async def test_a_publisher_that_stops_on_purpose_is_not_missed(database: str) -> None:
    async with stages(database) as s:
        async with running(PublishWorker(s.publisher(RecordingBus()))):
            await eventually(lambda: s.database.fetchval("SELECT count(*) FROM publishers"))
        assert await s.database.fetchval("SELECT count(*) FROM publishers") == 0


async def test_a_publisher_at_rest_has_no_transaction_open(database: str) -> None:
    async with stages(database) as s:
        worker = PublishWorker(
            s.publisher(RecordingBus()), settings=PublishSettings(publish_sweep_s=60, publish_heartbeat_s=5)
        )
        async with running(worker):
            fence = await s.started_run("r")
            for n in range(3):
                await s.log.append("r", [debug_trace(f"t{n}")], fence=fence, source=Source.API)
                worker.mark_dirty(["r"])

            async def at_rest() -> bool:
                state = "SELECT state FROM pg_stat_activity WHERE application_name = 'runwire publish' AND datname = $1"
                name = await s.database.fetchval("SELECT current_database()")
                published = await s.database.fetchval("SELECT next_seq FROM run_outbox")
                return bool(published == 5 and await s.database.fetchval(state, name) == "idle")

            await eventually(at_rest)
            worker.stop()
