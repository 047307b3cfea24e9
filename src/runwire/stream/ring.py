"""The latest frames of a run, encoded once, and slices of them that every client at the same place shares. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from runwire.errors import RunwireError
from runwire.stream.frames import joined_chunk

_END: Final = b"\n\n"
"""What a frame ends with, and has nowhere else."""


class BrokenSequence(RunwireError):
    """Frames were about to be put where they do not follow. Nothing was sent: a stream has no gap and no repeat."""

    code = "broken_sequence"

    def __init__(self, *, expected: int, actual: int) -> None:
        super().__init__(f"expected seq {expected}, got {actual}")
        self.expected = expected
        self.actual = actual


class Slice:
    """The frames of `first` to `last`, to be written as one piece; joined and chunked once, however many write it."""

    __slots__ = ("_chunked", "_plain", "_runs", "first", "last")

    def __init__(self, first: int, last: int, runs: Sequence[bytes]) -> None:
        """`runs` are the frames, any number of them in one piece."""
        self.first = first
        self.last = last
        self._runs = runs
        self._plain: bytes | None = None
        self._chunked: bytes | None = None

    @classmethod
    def fitting(cls, first: int, frames: bytes, most_bytes: int) -> Slice:
        """The first of the frames, as `fitting` has them."""
        taken = fitting(frames, most_bytes)
        return cls(first, first + taken.count(_END) - 1, (taken,))

    def bytes(self, *, chunked: bool) -> bytes:
        """The same object at every call."""
        if chunked:
            if self._chunked is None:
                self._chunked = joined_chunk(self._runs)
            return self._chunked
        if self._plain is None:
            self._plain = b"".join(self._runs)
        return self._plain


def fitting(frames: bytes, most_bytes: int) -> bytes:
    """The first of the frames that are `most_bytes` long together, or one if that is longer."""
    if len(frames) <= most_bytes:
        return frames
    end = frames.rfind(_END, 0, most_bytes)
    return frames[: (end if end >= 0 else frames.index(_END)) + len(_END)]


class Ring:
    """A run's last frames: `capacity` of them at most after each `trim`, and seven eighths of that if there were more.

    Seqs in it are dense and end at `tail`. They are kept as they came: those of one message are one object.
    """

    __slots__ = ("_lasts", "_runs", "before", "bytes", "capacity", "tail")

    def __init__(self, capacity: int, *, tail: int = 0) -> None:
        self.capacity = capacity
        self.before = self.tail = tail
        """`before` is the seq before the oldest frame."""
        self.bytes = 0
        self._runs: list[bytes] = []
        self._lasts = array("q")

    def __len__(self) -> int:
        return self.tail - self.before

    def extend(self, first: int, last: int, frames: bytes) -> None:
        """Adds the frames of `first` to `last`. Raises BrokenSequence unless they follow the tail."""
        if first != self.tail + 1:
            raise BrokenSequence(expected=self.tail + 1, actual=first)
        self._runs.append(frames)
        self._lasts.append(last)
        self.bytes += len(frames)
        self.tail = last

    def prepend(self, first: int, last: int, frames: bytes) -> None:
        """Adds older frames, as many as there is room for; none unless they touch what is here."""
        room = self.capacity - len(self)
        if last != self.before or room <= 0:
            return
        if (excess := last - first + 1 - room) > 0:
            frames = _without(frames, excess)
            first += excess
        self._runs.insert(0, frames)
        self._lasts.insert(0, last)
        self.bytes += len(frames)
        self.before = first - 1

    def trim(self, *, keep: int = 0) -> None:
        """Drops the oldest where there are too many, but for the last `keep`."""
        if self.tail - self.before <= self.capacity:
            return
        # Some more than it has to: what stays is moved, which should not be for every event.
        self._drop(self.tail - max(self.capacity - self.capacity // 8, keep))

    def shed(self, *, keep: int) -> None:
        """Drops all but the last `keep`."""
        self._drop(self.tail - keep)

    def _drop(self, before: int) -> None:
        """Drops the frames up to `before`."""
        if before <= self.before:
            return
        gone = bisect_right(self._lasts, before)
        if gone:
            self.before = self._lasts[gone - 1]
            self.bytes -= sum(map(len, self._runs[:gone]))
            del self._runs[:gone], self._lasts[:gone]
        if before > self.before:
            left = _without(self._runs[0], before - self.before)
            self.bytes -= len(self._runs[0]) - len(left)
            self._runs[0] = left
            self.before = before

    def reaches(self, after: int) -> bool:
        """Whether every frame from `after + 1` to the tail is here."""
        return after >= self.before

    def slice(self, after: int, *, upto: int, most_bytes: int) -> Slice:
        """The frames `after` < seq <= `upto`, which the ring must reach, as far as they fit into `most_bytes`."""
        if after < self.before:
            raise BrokenSequence(expected=after + 1, actual=self.before + 1)
        if after < upto == self.tail and after == (self._lasts[-2] if len(self._lasts) > 1 else self.before):
            newest = self._runs[-1]  # as nearly always: all of it, and nothing else
            if len(newest) <= most_bytes:
                return Slice(after + 1, upto, (newest,))
        runs: list[bytes] = []
        last, left = after, most_bytes
        at = bisect_right(self._lasts, after)
        before = self._lasts[at - 1] if at else self.before
        while last < upto:
            frames, end = self._runs[at], self._lasts[at]
            if end > upto:
                frames = frames[: len(frames) - len(_without(frames, upto - before))]
                end = upto
            if before < after:
                frames = _without(frames, after - before)
            if len(frames) > left:
                if not runs or frames.find(_END, 0, left) >= 0:
                    frames = fitting(frames, left)
                    runs.append(frames)
                    last += frames.count(_END)
                break
            runs.append(frames)
            left -= len(frames)
            before = last = end
            at += 1
        return Slice(after + 1, last, runs)


def _without(frames: bytes, count: int) -> bytes:
    """What follows the first `count` frames."""
    return frames.split(_END, count)[count]
