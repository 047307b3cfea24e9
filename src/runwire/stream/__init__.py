"""Streams: what clients see of a run. Backfill and live as one sequence, each published event once and in order.

An HTTP handler needs:

    cursor = parse_cursor(from_seq=query.get("fromSeq"), last_event_id=headers.get("Last-Event-ID"))

    async with streams.attach(run_id, cursor=cursor) as session:
        if isinstance(session, NothingLeft):
            ...  # 204: the run is closed and the client has all of it
        ...  # send the headers, with `session.prelude` as the first of the body
        reason = await session.run(Outlet.of(transport))

Inside, an event goes from the tail (the events of a run, in order) to the fan-out (its clients, in slots):

    bus -------> tail ---piece---> fan-out ---batch---> sender ---> sockets
                  ^                   ^
    PostgreSQL ---+ catch_up          +--- sessions join when they have caught up
"""

from typing import TYPE_CHECKING

from runwire.lazy import lazily

if TYPE_CHECKING:
    from runwire.stream.cursor import Cursor, parse_cursor
    from runwire.stream.fanout import Outlet
    from runwire.stream.limits import StreamLimits
    from runwire.stream.log import LogReader, Page
    from runwire.stream.mixed import MixedCursor, MixedSession, MixedStreams, parse_mixed_cursor
    from runwire.stream.replay import parse_speed
    from runwire.stream.session import Session
    from runwire.stream.streams import NothingLeft, Streams
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "Cursor",
    "LogReader",
    "MixedCursor",
    "MixedSession",
    "MixedStreams",
    "NothingLeft",
    "Outlet",
    "Page",
    "Session",
    "StreamLimits",
    "Streams",
    "parse_cursor",
    "parse_mixed_cursor",
    "parse_speed",
]
