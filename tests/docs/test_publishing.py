"""One publisher per run and in order: what docs/architecture/flow.md says holds it, tried against."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from pipeline import RecordingBus, Stages, stages
from runwire.append import Change
from runwire.bus import Published
from runwire.model.event import RUN_FINISHED, Source, debug_trace
from runwire.model.run import RunState
from runwire.publish import Publisher

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


async def _publish_all(publisher: Publisher) -> None:
    while True:
        if await publisher.publish_pending() == 0 and await publisher.sweep() == 0:
            break
        await asyncio.sleep(0)
    await publisher.aclose()


async def _append_all(made: Stages, run_id: str) -> None:
    fence = await made.started_run(run_id)
    for _ in range(EVENTS // 2):
        await made.log.append(run_id, [debug_trace("a"), debug_trace("b")], fence=fence, source=Source.API)
    end = Change(RunState.FINISHED)
    await made.log.append(run_id, [RUN_FINISHED], fence=fence, source=Source.API, change=end)


async def test_two_publishers_at_once_put_every_run_on_the_bus_once_and_in_order(database: str) -> None:
    async with stages(database) as made:
        bus = SlowBus()
        appending = asyncio.gather(*(_append_all(made, run_id) for run_id in RUNS))
        publishers = [made.publisher(bus, batch_events=16, batch_runs=3) for _ in range(2)]
        publishing = [asyncio.create_task(_publish_all(publisher)) for publisher in publishers]
        await appending
        await asyncio.gather(*publishing)
        await _publish_all(made.publisher(bus))  # what was appended after both had found nothing
        for run_id in RUNS:
            assert bus.seqs(run_id) == list(range(1, EVENTS + 3))
        assert await made.database.fetchval("SELECT count(*) FROM run_outbox") == 0


async def test_a_publisher_that_dies_before_its_commit_is_followed_by_one_that_repeats_and_skips_nothing(
    database: str,
) -> None:
    async with stages(database) as made:
        await _append_all(made, "r")
        dying = DyingBus()
        publisher = made.publisher(dying, batch_events=10)
        await publisher.sweep()
        with pytest.raises(asyncio.CancelledError):
            await publisher.publish_pending()
        await publisher.aclose()
        assert dying.seqs("r") == list(range(1, 11))
        following = RecordingBus()
        await _publish_all(made.publisher(following))
        assert following.seqs("r") == list(range(1, EVENTS + 3))
