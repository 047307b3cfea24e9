"""One publisher per run and in order: what docs/architecture/flow.md says holds it, tried against."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from pipeline import RecordingBus, Stages, stages
from runwire.append import Change
from runwire.bus import Published
from runwire.model.event import RUN_FINISHED, RUN_STARTED, Source, debug_trace
from runwire.model.run import RunState
from runwire.orchestrate import StartRequest

RUNS = [f"run-{n}" for n in range(8)]
EVENTS = 60


class SlowBus(RecordingBus):
    """Lets the other publisher in between any two messages."""

    async def publish(self, messages: Sequence[Published]) -> None:
        for message in messages:
            await asyncio.sleep(0)
            await super().publish([message])


class DyingBus(RecordingBus):
    """Takes everything, and the process dies right after: the cursors are never committed."""

    async def publish(self, messages: Sequence[Published]) -> None:
        await super().publish(messages)
        raise asyncio.CancelledError


async def _publish_all(made: Stages, bus: RecordingBus) -> int:
    """Publishes in small steps until every run is published to its end. How many steps found something."""
    publisher = made.publisher(bus, publish_batch_events=16, publish_batch_runs=3)
    steps = 0
    async with asyncio.timeout(30):
        while await made.database.fetchval("SELECT count(*) FROM run_outbox"):
            await publisher.sweep()
            steps += await publisher.publish_pending() > 0
    await publisher.aclose()
    return steps


async def _append_all(made: Stages, run_id: str) -> None:
    begun = Change(RunState.STARTED)
    await made.log.append(run_id, [RUN_STARTED], fence=1, source=Source.API, change=begun)
    for _ in range(EVENTS // 2):
        await made.log.append(run_id, [debug_trace("a"), debug_trace("b")], fence=1, source=Source.API)
    end = Change(RunState.FINISHED)
    await made.log.append(run_id, [RUN_FINISHED], fence=1, source=Source.API, change=end)


async def test_two_publishers_at_once_put_every_run_on_the_bus_once_and_in_order(database: str) -> None:
    async with stages(database) as made:
        bus = SlowBus()
        for run_id in RUNS:
            await made.control.start(StartRequest(agent="elsewhere", run_id=run_id, external=True))
        *_, one, other = await asyncio.gather(
            *(_append_all(made, run_id) for run_id in RUNS), _publish_all(made, bus), _publish_all(made, bus)
        )
        for run_id in RUNS:
            assert bus.seqs(run_id) == list(range(1, EVENTS + 3))
        assert one
        assert other


async def test_a_publisher_that_dies_before_its_commit_is_followed_by_one_that_repeats_and_skips_nothing(
    database: str,
) -> None:
    async with stages(database) as made:
        await made.control.start(StartRequest(agent="elsewhere", run_id="r", external=True))
        await _append_all(made, "r")
        dying = DyingBus()
        publisher = made.publisher(dying, publish_batch_events=10)
        await publisher.sweep()
        with pytest.raises(asyncio.CancelledError):
            await publisher.publish_pending()
        await publisher.aclose()
        assert dying.seqs("r") == list(range(1, 11))
        following = RecordingBus()
        await _publish_all(made, following)
        assert following.seqs("r") == list(range(1, EVENTS + 3))
