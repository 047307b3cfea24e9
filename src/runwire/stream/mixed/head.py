"""Where a mixed watch is, and the frames that take it further. Pure.

Bytes are told if they begin where the last ones ended: what was told before is dropped, and after a gap nothing is. So
an offset is told once, whatever comes again, late or never.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from runwire.content.part_writer import Written
from runwire.content.parts import Reach
from runwire.model.text import whole_characters
from runwire.stream.mixed.cursor import MixedCursor, id_at
from runwire.stream.mixed.frames import content_frame, event_frame, portions
from runwire.stream.mixed.reader import BytesAt, Growing, Step
from runwire.stream.piece import FRAME_END, Times

_ABOUT_A_PART: Final = b'"fn":"part:'
_LAST: Final = b'"type":"RunFinished"'


@dataclass(slots=True)
class Told:
    """Frames with their ids and times."""

    frames: list[bytes] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    times: list[Times] = field(default_factory=list)
    complete: bool = True
    """Nothing was left out."""


@dataclass(slots=True)
class _Grown:
    """An open attempt. `carry` is the beginning of a character at the end of what came."""

    part: Growing
    told: int
    carry: bytes = b""


class Head:
    """The last event, and how much of each open part was told."""

    def __init__(self) -> None:
        self.seq = 0
        self._places: dict[int, tuple[int, int]] = {}
        self._growing: dict[int, _Grown] = {}

    @property
    def cursor(self) -> MixedCursor:
        return MixedCursor(self.seq, dict(self._places))

    @property
    def id(self) -> str:
        return id_at(self.seq, self._places)

    @property
    def reaches(self) -> Sequence[Reach]:
        """The open attempts, and how far each was told."""
        return [Reach(each.part.part_id, each.part.n, each.part.attempt, each.told) for each in self._growing.values()]

    def settle_at(self, step: Step) -> None:
        """Goes to where a step ends."""
        self.seq, self._places = step.cursor.seq, dict(step.cursor.places)
        self._growing = {part.n: _Grown(part, part.told) for part in step.growing}

    def adopt(self, step: Step) -> None:
        """The same, without places of parts that are no longer open: those of a client that asked for others before."""
        self.settle_at(step)
        self._places = {n: place for n, place in self._places.items() if n in self._growing}

    def tell_bytes(self, written: Written) -> Told | None:
        """The frames of bytes that were committed, as far as they are new. None after a gap: then they are to be read.

        Parts that are not known to be open get nothing: the event that opens one has bytes read.
        """
        told = Told()
        grown = self._growing.get(written.n)
        if grown is None or grown.part.attempt != written.attempt:
            return told
        had = grown.told + len(grown.carry)
        if written.at > had:
            return None
        part, data = grown.part, grown.carry + written.data[had - written.at :]
        whole = whole_characters(data) if part.is_text else data
        grown.carry = data[len(whole) :]
        for portion in portions(whole, is_text=part.is_text):
            at, grown.told = grown.told, grown.told + len(portion)
            self._places[part.n] = (part.attempt, grown.told)
            told.ids.append(self.id)
            told.frames.append(content_frame(told.ids[-1], part.n, part.attempt, at, portion, is_text=part.is_text))
        if told.frames:
            told.times.append((len(told.frames), BytesAt(written.written_us)))
        return told

    def tell_events(self, frames: bytes) -> Told:
        """The frames of events, as far as they are new. It stops at an event that opens or ends a part, or is the last:
        there the order of events and bytes takes a step.
        """
        told = Told()
        for frame in frames.split(FRAME_END)[:-1]:
            head, _, json = frame.partition(b"\ndata: ")
            seq = int(head[4:])  # after "id: "
            if seq <= self.seq:
                continue
            if _ABOUT_A_PART in json or _LAST in json:
                told.complete = False
                break
            self.seq = seq
            told.ids.append(self.id)
            told.frames.append(event_frame(told.ids[-1], json))
            told.times.append((1, _time_us(json)))
        return told


def _time_us(json: bytes) -> int:
    start = json.index(b'"ts":') + 5
    return int(json[start : json.index(b",", start)]) * 1000
