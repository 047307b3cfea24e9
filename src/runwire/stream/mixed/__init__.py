"""Streams of a run's events with the bytes of its parts: one order, each exactly once.

    cursor = parse_mixed_cursor(header, where="Last-Event-ID")
    async with mixed.attach(run_id, cursor=cursor, names=None, resumed=True, client=client) as session:
        ...  # as the stream of one run

Clients that have caught up share a `MixedWatch`, one for each run and choice of parts. It makes each frame once, from
the pieces of the run's own watch and from the bytes that the part writer of this process has committed, and gives it
to its fan-out. Clients that are behind read steps from PostgreSQL (`MixedReader`), up to where the watch is:

    watch of the run ---events---+
    part writer, PartCatchUp ----+--> MixedWatch ---piece---> fan-out ---> clients
                                          ^
    PostgreSQL --------- MixedReader -----+------------------------------> clients that are behind
"""

from runwire.stream.mixed.cursor import MixedCursor, parse_mixed_cursor
from runwire.stream.mixed.reader import PART_BYTES, MixedReader, Names
from runwire.stream.mixed.session import MixedSession, MixedStreams

__all__ = [
    "PART_BYTES",
    "MixedCursor",
    "MixedReader",
    "MixedSession",
    "MixedStreams",
    "Names",
    "parse_mixed_cursor",
]
