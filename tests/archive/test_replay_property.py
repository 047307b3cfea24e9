"""Random closed runs: live, stored, archived and replayed, they are the same bytes but for the source."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archive.history import archive, run_of
from postgres import cloned_database
from runwire.archive.cold import ColdLog
from runwire.bus.memory import MemoryBus
from runwire.model.event import Source, WireEncoder
from runwire.settings import Settings
from runwire.stream import Cursor, LogReader, NothingLeft, Outlet, Streams
from runwire.stream.sse import event_frame
from runwire.telemetry.metrics import Metrics


class _Client:
    """Takes what is written, without a connection."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.outlet = Outlet(self._write, lambda: 0, lambda: False, chunked=False)

    def _write(self, data: bytes) -> None:
        self.body += data


async def replayed(streams: Streams, run_id: str, *, after: int) -> bytes:
    client = _Client()
    async with streams.replay(run_id, cursor=Cursor(after), speed=float("inf")) as replay:
        assert not isinstance(replay, NothingLeft)
        client.body += replay.prelude
        await replay.run(client.outlet)
    return bytes(client.body)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(sizes=st.lists(st.integers(2, 2300), min_size=1, max_size=4), data=st.data())
def test_hot_and_cold_replays_are_the_live_events_but_for_their_source(
    postgres_dsn: str, tmp_path_factory: Any, sizes: list[int], data: st.DataObject
) -> None:
    cursors = [data.draw(st.integers(0, size - 1)) for size in sizes]
    asyncio.run(_compare(postgres_dsn, tmp_path_factory.mktemp("cold"), sizes, cursors))


async def _compare(admin_dsn: str, folder: Path, sizes: list[int], cursors: list[int]) -> None:
    async with cloned_database(admin_dsn) as dsn, archive(dsn, folder) as here:
        reader = LogReader(here.database, cold=ColdLog(here.database, lambda: here.store, metrics=here.metrics))
        streams = Streams(bus=MemoryBus(), reader=reader, settings=Settings(), metrics=Metrics())
        hot: dict[str, bytes] = {}
        for number, (size, after) in enumerate(zip(sizes, cursors, strict=True)):
            run_id = f"run-{number}"
            log = await run_of(here.database, run_id, events=size)
            live = WireEncoder(run_id, source=Source.OUTBOX)
            frames = b"".join(event_frame(event.seq, live.json(event)) for event in log[after:])
            hot[run_id] = await replayed(streams, run_id, after=after)
            assert hot[run_id].replace(b'"source":"replayer"', b'"source":"outbox"').count(frames) == 1
            assert hot[run_id].count(b'"source":"replayer"') == size - after
        await here.run()
        assert await here.partitions() == []
        for (run_id, before), after in zip(hot.items(), cursors, strict=True):
            assert await replayed(streams, run_id, after=after) == before
