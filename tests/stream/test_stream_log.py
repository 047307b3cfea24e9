"""A stream's opening and its end are told at debug, with the reason."""

from __future__ import annotations

import structlog

from pipeline import stages
from runwire.bus.memory import MemoryBus
from runwire.settings import Settings
from runwire.stream import LogReader, Streams, parse_cursor


async def test_a_stream_has_a_line_when_it_opens_and_one_when_it_ends(database: str) -> None:
    with structlog.testing.capture_logs() as lines:
        async with stages(database) as s:
            await s.started_run("r")
            streams = Streams(bus=MemoryBus(), reader=LogReader(s.database), settings=Settings(), metrics=s.metrics)
            async with streams, streams.attach("r", cursor=parse_cursor(from_seq="1", last_event_id=None)):
                pass
    told = [line for line in lines if line["event"].startswith("stream_")]
    assert told == [
        {"event": "stream_opened", "log_level": "debug", "run_id": "r", "cursor": 1},
        {"event": "stream_closed", "log_level": "debug", "run_id": "r", "reason": "client"},
    ]
