"""The frames that a mixed watch has made, numbered and on their way to its followers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from runwire.stream.fanout import Fanout
from runwire.stream.limits import StreamLimits
from runwire.stream.mixed.slots import PartSlots
from runwire.stream.piece import FRAME_END, Piece, Times, fitting, split
from runwire.stream.ring import Ring

KEPT_FRAMES: Final = 256
KEPT_BYTES: Final = 32_768
"""Frames that are kept for clients to come, at most; those that followers lack are kept in any case."""


class Trail:
    """Frames have numbers in the order in which they were made, which is what the fan-out calls a seq.

    The last ones stay in a ring, each with its id, until all followers have them: so the id of a client that leaves the
    fan-out is known.
    """

    def __init__(self, run_id: str, first_id: str, *, slots: PartSlots, limits: StreamLimits) -> None:
        """`first_id` is where followers are before the first frame."""
        self.fanout = Fanout(run_id, sent=0, scheduler=slots, limits=limits)
        self._limits = limits
        self._ring = Ring(1 << 60)  # bounded below
        self._ids = [first_id]
        """Those of the frames in the ring, after the id before them."""
        self._times: list[int] = []
        """Those of the frames in the ring."""

    @property
    def last_id(self) -> str:
        return self._ids[-1]

    @property
    def last(self) -> int:
        """The number of the last frame."""
        return self._ring.tail

    @property
    def kept_bytes(self) -> int:
        return self._ring.bytes

    def number_of(self, event_id: str) -> int | None:
        """The number of the frame with that id; None for one that is not kept."""
        for back, kept in enumerate(reversed(self._ids)):
            if kept == event_id:
                return self._ring.tail - back
        return None

    def id_of(self, number: int) -> str:
        """The id of a frame that some follower may have got last."""
        return self._ids[number - self._ring.before]

    def frames_after(self, number: int) -> tuple[bytes, list[Times]]:
        """The frames up to what followers have, as far as they fit into a piece, and their times."""
        piece = self._ring.slice(number, upto=self.fanout.sent, most_bytes=self._limits.slice_bytes)
        before = self._ring.before
        return piece.bytes(chunked=False), [
            (1, at) for at in self._times[piece.first - before - 1 : piece.last - before]
        ]

    def add(self, frames: bytes, ids: Sequence[str], times: Sequence[Times]) -> None:
        """Has frames written to all followers. `ids` has one for each."""
        ring = self._ring
        self._ids += ids
        for count, at in times:
            self._times += [at] * count
        left = len(ids)
        while frames:
            piece = fitting(frames, self._limits.slice_bytes)
            count = left if piece is frames else piece.count(FRAME_END)
            frames, left = frames[len(piece) :], left - count
            these, times = split(times, count) if left else (times, ())
            first, last = ring.tail + 1, ring.tail + count
            ring.extend(first, last, piece)
            self.fanout.send(Piece(first, last, (piece,), these))
        if len(ring) > KEPT_FRAMES or ring.bytes > KEPT_BYTES:
            before = ring.before
            ring.shed(keep=max(ring.tail - self.fanout.written_upto, 1))
            del self._ids[: ring.before - before]
            del self._times[: ring.before - before]

    def close(self) -> None:
        """No frame follows: gives followers back once they have all."""
        self.fanout.end_at(self._ring.tail)
