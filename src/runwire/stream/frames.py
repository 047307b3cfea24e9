"""The events of a run as frames: encoded once, whoever gets them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runwire.model.event import Source, StoredEvent, WireEncoder
from runwire.stream.sse import chunk, event_frame

if TYPE_CHECKING:
    from runwire.stream._frames import frames, joined
else:
    try:
        from runwire.stream._frames import frames, joined
    except ImportError:  # pragma: no cover  # not compiled: the same, slower
        frames = joined = None

__all__ = ["Frames", "frames", "joined_chunk"]


class Frames:
    """Encodes the events of one run. `source` is the one on the wire."""

    __slots__ = ("_encoder", "_head", "_tail")

    def __init__(self, run_id: str, *, source: Source = Source.OUTBOX) -> None:
        self._encoder = WireEncoder(run_id, source=source)
        self._head = self._encoder.head.encode("ascii")
        self._tail = self._encoder.tail.encode("ascii")

    def of(self, events: Sequence[StoredEvent]) -> bytes:
        """Their frames, one after the other. Raises ValueError for what is not ASCII, which the log does not take."""
        if frames is not None:
            return frames(self._head, self._tail, events)
        encode = self._encoder.json
        return b"".join([event_frame(event.seq, encode(event)) for event in events])


def joined_chunk(pieces: Sequence[bytes]) -> bytes:
    """The pieces as one chunk."""
    return chunk(b"".join(pieces)) if joined is None else joined(pieces)
