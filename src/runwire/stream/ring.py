"""The latest frames of a run, encoded once, for clients that are behind. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_right

from runwire.stream.piece import FRAME_END, BrokenSequence, Piece, fitting, without


class Ring:
    """A run's last frames, at most `capacity` of them.

    Seqs are dense and end at `tail`. The frames of one message stay one object.
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
        """Adds the frames of `first` to `last`, and drops the oldest when there are too many.

        Raises BrokenSequence unless they follow the tail.
        """
        if first != self.tail + 1:
            raise BrokenSequence(expected=self.tail + 1, actual=first)
        self._runs.append(frames)
        self._lasts.append(last)
        self.bytes += len(frames)
        self.tail = last
        if last - self.before > self.capacity:
            self._trim()

    def prepend(self, first: int, last: int, frames: bytes) -> None:
        """Adds older frames as far as there is room; adds none unless they touch the oldest one."""
        room = self.capacity - len(self)
        if last != self.before or room <= 0:
            return
        if (excess := last - first + 1 - room) > 0:
            frames = without(frames, excess)
            first += excess
        self._runs.insert(0, frames)
        self._lasts.insert(0, last)
        self.bytes += len(frames)
        self.before = first - 1

    def shed(self, *, keep: int) -> None:
        """Drops all but the last `keep`."""
        self._drop(self.tail - keep)

    def _trim(self) -> None:
        """Drops the oldest frames, down to seven eighths of the capacity."""
        # An eighth more than necessary: a drop moves what stays, and must not happen for every event.
        self._drop(self.tail - (self.capacity - self.capacity // 8))

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
            left = without(self._runs[0], before - self.before)
            self.bytes -= len(self._runs[0]) - len(left)
            self._runs[0] = left
            self.before = before

    def reaches(self, after: int) -> bool:
        """Whether every frame from `after + 1` to the tail is here."""
        return after >= self.before

    def slice(self, after: int, *, upto: int, most_bytes: int) -> Piece:
        """The frames `after` < seq <= `upto`, as far as they fit into `most_bytes`. The ring must reach `after`."""
        if after < self.before:
            raise BrokenSequence(expected=after + 1, actual=self.before + 1)
        runs: list[bytes] = []
        last, left = after, most_bytes
        at = bisect_right(self._lasts, after)
        before = self._lasts[at - 1] if at else self.before
        while last < upto:
            frames, end = self._runs[at], self._lasts[at]
            if end > upto:
                frames = frames[: len(frames) - len(without(frames, upto - before))]
                end = upto
            if before < after:
                frames = without(frames, after - before)
            if len(frames) > left:
                if not runs or frames.find(FRAME_END, 0, left) >= 0:
                    frames = fitting(frames, left)
                    runs.append(frames)
                    last += frames.count(FRAME_END)
                break
            runs.append(frames)
            left -= len(frames)
            before = last = end
            at += 1
        return Piece(after + 1, last, runs)
