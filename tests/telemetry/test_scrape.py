"""A scrape is small, however much a process does: its samples are those of names and thresholds, not of runs."""

from __future__ import annotations

import asyncio

from pipeline import RecordingBus, stages
from runwire.archive import ArchiveMetrics
from runwire.bus.memory import MemoryBus
from runwire.content import ContentMetrics
from runwire.content.part_metrics import PartMetrics
from runwire.observe import Observer, ObserverMetrics
from runwire.process.metrics import PlaceMetrics
from runwire.settings import Settings
from runwire.stream import Cursor, LogReader, NothingLeft, Outlet, Streams
from runwire.telemetry.metrics import Metrics
from waiting import eventually

SAMPLES_MAX = 1000
RUNS, STREAMS = 200, 1000
MORE_THAN_ARE_NAMED = {f"agent{n}": [f"Node{n}x{k}" for k in range(5)] for n in range(30)}


def samples(metrics: Metrics) -> int:
    return sum(1 for line in metrics.exposition()[0].splitlines() if line and not line.startswith(b"#"))


async def test_a_scrape_has_under_a_thousand_samples_with_a_thousand_streams_of_two_hundred_runs(database: str) -> None:
    metrics = Metrics(MORE_THAN_ARE_NAMED)
    observed = ObserverMetrics(metrics.out, agents=MORE_THAN_ARE_NAMED)
    ArchiveMetrics(metrics.out)
    ContentMetrics(metrics.out)
    PartMetrics(metrics.out)
    PlaceMetrics(metrics.out)
    async with stages(database) as s:
        await asyncio.gather(*(s.started_run(f"r{n}") for n in range(RUNS)))
        publisher = s.publisher(RecordingBus())
        await publisher.sweep()
        while await publisher.publish_pending():
            pass
        await publisher.aclose()
        await Observer(s.database, observed).observe()
        attached = 0
        async with Streams(
            bus=MemoryBus(), reader=LogReader(s.database), settings=Settings(), metrics=metrics
        ) as streams:

            async def follow(run_id: str) -> None:
                nonlocal attached
                async with streams.attach(run_id, cursor=Cursor(0)) as stream:
                    assert not isinstance(stream, NothingLeft)
                    attached += 1
                    await stream.run(Outlet(lambda _data: None, lambda: 0, lambda: False))

            following = [asyncio.create_task(follow(f"r{n % RUNS}")) for n in range(STREAMS)]
            await eventually(lambda: attached == STREAMS and metrics.sse_backfill.count == STREAMS, within_s=60)
            found = samples(metrics)
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
    assert found < SAMPLES_MAX
    assert metrics.exposition()[0].count(b'runwire_runs_active{state="started"} 200.0') == 1
