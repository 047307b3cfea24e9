"""Streams while PostgreSQL is away, and when it is back; and when their run has been taken away."""

from __future__ import annotations

import structlog

from pipeline import stages
from runwire.bus.memory import MemoryBus
from runwire.model.event import Source, debug_trace
from runwire.settings import Settings
from runwire.stream import LogReader, NothingLeft, Outlet, Streams, parse_cursor
from waiting import eventually


async def test_the_loss_of_the_database_is_said_once_and_what_was_missed_arrives_after_it(database: str) -> None:
    with structlog.testing.capture_logs() as lines:
        async with stages(database) as s:
            fence = await s.started_run("r")
            settings = Settings(sse_silence_s=0.01)
            streams = Streams(bus=MemoryBus(), reader=LogReader(s.database), settings=settings, metrics=s.metrics)
            cursor = parse_cursor(from_seq="0", last_event_id=None)
            written: list[bytes] = []
            async with streams, streams.attach("r", cursor=cursor) as session:
                assert not isinstance(session, NothingLeft)
                await s.database.__aexit__()
                streams.recheck()

                def said(event: str) -> int:
                    return sum(1 for line in lines if line["event"] == event and line.get("doing") == "stream")

                await eventually(lambda: said("database_unavailable") == 1)
                await s.database.__aenter__()
                await eventually(lambda: said("database_recovered") == 1)
                await s.log.append("r", [debug_trace("x")], fence=fence, source=Source.API)
                # Published by somebody whose message the bus lost.
                await s.database.execute("UPDATE run_outbox SET next_seq = 3")
                outlet = Outlet(written.append, lambda: 0, lambda: b"id: 2" in b"".join(written), chunked=False)

                async def caught_up() -> bool:
                    streams.recheck()
                    watch = streams.watch_of("r")
                    return watch is not None and watch.tail.published == 2

                await eventually(caught_up)
                session.wake()
                await session.run(outlet)
            assert b"id: 1" in b"".join(written)
            assert said("database_unavailable") == 1


async def test_a_run_that_was_deleted_ends_its_streams(database: str) -> None:
    async with stages(database) as s:
        await s.started_run("r")
        settings = Settings(sse_silence_s=0.01)
        streams = Streams(bus=MemoryBus(), reader=LogReader(s.database), settings=settings, metrics=s.metrics)
        cursor = parse_cursor(from_seq="0", last_event_id=None)
        async with streams, streams.attach("r", cursor=cursor):
            await s.database.execute("DELETE FROM run_events")
            await s.database.execute("DELETE FROM runs")
            streams.recheck()
            await eventually(lambda: streams.watch_of("r") is None)
