"""Streams: what clients see of a run. Backfill and live as one sequence, each published event once and in order.

What an HTTP handler needs:

    cursor = parse_cursor(from_seq=query.get("fromSeq"), last_event_id=headers.get("Last-Event-ID"))
    async with hubs.attach(run_id, cursor=cursor) as stream:
        if isinstance(stream, NothingLeft):
            ...  # 204: the run is closed and the client has all of it
        ...  # send the headers, with `stream.prelude` as the first of the body
        reason = await stream.run(Outlet.of(transport))
"""

from runwire.stream.cursor import Cursor, parse_cursor
from runwire.stream.hubs import Hubs, NothingLeft
from runwire.stream.limits import Limits
from runwire.stream.outlet import Outlet
from runwire.stream.reader import LogReader, Page
from runwire.stream.replay import Replay, Replays, parse_speed
from runwire.stream.stream import Stream

__all__ = [
    "Cursor",
    "Hubs",
    "Limits",
    "LogReader",
    "NothingLeft",
    "Outlet",
    "Page",
    "Replay",
    "Replays",
    "Stream",
    "parse_cursor",
    "parse_speed",
]
