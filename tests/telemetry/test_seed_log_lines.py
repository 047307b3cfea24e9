"""The log lines that were metrics once are still there for grep, one an event."""

from __future__ import annotations

import structlog

from pipeline import RecordingBus, stages
from runwire.model.event import Source, debug_trace


async def test_each_event_has_a_line_when_stored_and_one_when_published(database: str) -> None:
    with structlog.testing.capture_logs() as lines:
        async with stages(database) as s:
            fence = await s.started_run("r")
            await s.log.append("r", [debug_trace("x"), debug_trace("y")], fence=fence, source=Source.API)
            publisher = s.publisher(RecordingBus())
            publisher.mark_dirty(["r"], by="local")
            await publisher.publish_pending()
            await publisher.aclose()
    for name in ("metric.events_inserted", "metric.events_published"):
        told = [(line["runId"], line["seq"], line["type"]) for line in lines if line["event"] == name]
        assert told == [("r", 1, "RunStarted"), ("r", 2, "DebugTrace"), ("r", 3, "DebugTrace")]
        assert all(line["lag_ms"] > 0 for line in lines if line["event"] == name)
