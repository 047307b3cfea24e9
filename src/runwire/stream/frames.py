"""The events of a run as frames: encoded once, for all clients."""

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
    """Encodes the events of one run. `source` goes into each frame."""

    __slots__ = ("_encoder", "_head", "_tail")

    def __init__(self, run_id: str, *, source: Source = Source.OUTBOX) -> None:
        self._encoder = WireEncoder(run_id, source=source)
        self._head = self._encoder.head.encode("ascii")
        self._tail = self._encoder.tail.encode("ascii")

    def of(self, events: Sequence[StoredEvent]) -> bytes:
        """The frames of the events, joined. Raises ValueError for text that is not ASCII; the log has none."""
        if frames is not None:
            return frames(self._head, self._tail, events)
        encode = self._encoder.json
        return b"".join([event_frame(event.seq, encode(event)) for event in events])


def joined_chunk(pieces: Sequence[bytes]) -> bytes:
    """The pieces as one chunk of HTTP/1.1's chunked transfer coding."""
    return chunk(b"".join(pieces)) if joined is None else joined(pieces)
