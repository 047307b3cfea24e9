"""The latest frames of a run, encoded once, and slices of them that every client at the same place shares. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from runwire.errors import RunwireError
from runwire.stream.frames import joined_chunk
from runwire.stream.limits import FRAME_MAX


class BrokenSequence(RunwireError):
    """Frames were about to be put where they do not follow. Nothing was sent: a stream has no gap and no repeat."""

    code = "broken_sequence"

    def __init__(self, *, expected: int, actual: int) -> None:
        super().__init__(f"expected seq {expected}, got {actual}")
        self.expected = expected
        self.actual = actual


class Slice:
    """The frames of `first` to `last`, to be written as one piece; joined and chunked once, however many write it."""

    __slots__ = ("_chunked", "_frames", "_plain", "first", "last")

    def __init__(self, first: int, frames: Sequence[bytes]) -> None:
        self.first = first
        self.last = first + len(frames) - 1
        self._frames: Sequence[bytes] = frames
        self._plain: bytes | None = None
        self._chunked: bytes | None = None

    def bytes(self, *, chunked: bool) -> bytes:
        """The same object at every call."""
        if chunked:
            if self._chunked is None:
                self._chunked = joined_chunk(self._frames)
            return self._chunked
        if self._plain is None:
            self._plain = b"".join(self._frames)
        return self._plain


def fitting(frames: Sequence[bytes], most_bytes: int) -> Sequence[bytes]:
    """The first of the frames that are `most_bytes` long together, or one if that is longer."""
    if len(frames) * FRAME_MAX <= most_bytes:  # of a few there is no need to know
        return frames
    return frames[: max(bisect_right(list(accumulate(map(len, frames))), most_bytes), 1)]


class Ring:
    """A run's last frames: `capacity` of them at most after each `trim`, and seven eighths of that if there were more.

    Seqs in it are dense and end at `tail`.
    """

    __slots__ = ("_frames", "capacity", "tail")

    def __init__(self, capacity: int, *, tail: int = 0) -> None:
        self.capacity = capacity
        self.tail = tail
        self._frames: list[bytes] = []

    def __len__(self) -> int:
        return len(self._frames)

    def extend(self, first: int, frames: Sequence[bytes]) -> None:
        """Adds frames from `first` on. Raises BrokenSequence unless they follow the tail."""
        if first != self.tail + 1:
            raise BrokenSequence(expected=self.tail + 1, actual=first)
        self._frames.extend(frames)
        self.tail += len(frames)

    def prepend(self, last: int, frames: Sequence[bytes]) -> None:
        """Adds older frames that end at `last`, as many as there is room for; none unless they touch what is here."""
        room = self.capacity - len(self._frames)
        if last == self.tail - len(self._frames) and room > 0:
            self._frames[:0] = frames[-room:]

    def trim(self, *, keep: int = 0) -> None:
        """Drops the oldest where there are too many, but for the last `keep`."""
        if len(self._frames) > self.capacity:
            # Some more than it has to: what stays is moved, which should not be for every event.
            excess = len(self._frames) - max(self.capacity - self.capacity // 8, keep)
            if excess > 0:
                del self._frames[:excess]

    def reaches(self, after: int) -> bool:
        """Whether every frame from `after + 1` to the tail is here."""
        return after >= self.tail - len(self._frames)

    def slice(self, after: int, *, upto: int, most_bytes: int) -> Slice:
        """The frames `after` < seq <= `upto`, which the ring must reach, as far as they fit into `most_bytes`."""
        oldest = self.tail - len(self._frames)
        if after < oldest:
            raise BrokenSequence(expected=after + 1, actual=oldest + 1)
        return Slice(after + 1, fitting(self._frames[after - oldest : upto - oldest], most_bytes))
