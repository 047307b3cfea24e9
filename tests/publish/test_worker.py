"""The publisher's loop: it is heard of while it has nothing to do."""

from __future__ import annotations

import asyncio

from pipeline import RecordingBus, stages
from runwire.publish import PublishWorker
from waiting import eventually


async def test_a_publisher_that_sweeps_rarely_says_that_it_lives_all_the_same(database: str) -> None:
    async with stages(database) as pipeline:
        worker = PublishWorker(pipeline.publisher(RecordingBus()), sweep_s=60, heartbeat_s=0.05)
        task = asyncio.create_task(worker.run())
        try:
            beats = set()

            async def three_beats() -> bool:
                beats.update(await pipeline.database.fetch("SELECT heartbeat_at FROM publishers"))
                return len(beats) >= 3

            await eventually(three_beats)
        finally:
            worker.stop()
            await task
