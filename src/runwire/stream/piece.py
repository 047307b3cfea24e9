"""Pieces: consecutive frames that go to every client in one write. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from runwire.errors import RunwireError
from runwire.stream.frames import joined_chunk

FRAME_END: Final = b"\n\n"
"""Every frame ends with it and contains it nowhere else."""

Times: TypeAlias = tuple[int, int]
"""A count of consecutive events, and when they were committed (epoch us)."""


class BrokenSequence(RunwireError):
    """Frames that do not follow the previous ones. They were not sent: a stream has no gap and no repeat."""

    code = "broken_sequence"

    def __init__(self, *, expected: int, actual: int) -> None:
        super().__init__(f"expected seq {expected}, got {actual}")
        self.expected = expected
        self.actual = actual


class Piece:
    """The frames of the events `first` to `last`, joined and chunked once for all clients that get them.

    `times` say when the events were committed; empty where nobody measures their delivery lag.
    """

    __slots__ = ("_chunked", "_plain", "_runs", "first", "last", "times")

    def __init__(self, first: int, last: int, runs: Sequence[bytes], times: Sequence[Times] = ()) -> None:
        """Each of `runs` holds any number of whole frames."""
        self.first = first
        self.last = last
        self.times = times
        self._runs = runs
        self._plain: bytes | None = None
        self._chunked: bytes | None = None

    @property
    def count(self) -> int:
        """Number of events."""
        return self.last - self.first + 1

    @classmethod
    def fitting(cls, first: int, frames: bytes, most_bytes: int) -> Piece:
        """The first of the frames, cut as `fitting` cuts them."""
        taken = fitting(frames, most_bytes)
        return cls(first, first + taken.count(FRAME_END) - 1, (taken,))

    def bytes(self, *, chunked: bool) -> bytes:
        """The same object at every call."""
        if chunked:
            if self._chunked is None:
                self._chunked = joined_chunk(self._runs)
            return self._chunked
        if self._plain is None:
            self._plain = b"".join(self._runs)
        return self._plain


def cut(pending: Sequence[Piece], most_bytes: int) -> tuple[Piece, list[Piece]]:
    """The next piece of consecutive pieces, and the rest of them.

    The next piece has at most `most_bytes`, or one frame if that is longer. `pending` is not empty.
    """
    first, last = pending[0].first, pending[0].first - 1
    runs: list[bytes] = []
    times: list[Times] = []
    room = most_bytes
    for n, piece in enumerate(pending):
        frames = piece.bytes(chunked=False)
        if len(frames) > room:
            rest = list(pending[n:])
            if not runs or frames.find(FRAME_END, 0, room) >= 0:
                taken = fitting(frames, room)
                count = taken.count(FRAME_END)
                these, later = split(piece.times, count)
                last = piece.first + count - 1
                rest[:1] = [Piece(last + 1, piece.last, (frames[len(taken) :],), later)] if last < piece.last else []
                runs.append(taken)
                times += these
            return Piece(first, last, runs, times), rest
        runs.append(frames)
        times += piece.times
        room -= len(frames)
        last = piece.last
    return Piece(first, last, runs, times), []


def fitting(frames: bytes, most_bytes: int) -> bytes:
    """The first frames that have `most_bytes` together, or one frame if that is longer."""
    if len(frames) <= most_bytes:
        return frames
    end = frames.rfind(FRAME_END, 0, most_bytes)
    return frames[: (end if end >= 0 else frames.index(FRAME_END)) + len(FRAME_END)]


def without(frames: bytes, count: int) -> bytes:
    """Everything after the first `count` frames."""
    return frames.split(FRAME_END, count)[count]


def split(times: Sequence[Times], count: int) -> tuple[list[Times], list[Times]]:
    """The times of the first `count` events, and of the rest."""
    first: list[Times] = []
    for n, (many, ts_us) in enumerate(times):
        if many >= count:
            first.append((count, ts_us))
            return first, [*([(many - count, ts_us)] if many > count else []), *times[n + 1 :]]
        first.append((many, ts_us))
        count -= many
    return first, []
