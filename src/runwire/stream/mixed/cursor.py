"""Where a client is in a run's events and in its open parts: the id of each frame of a mixed stream. Pure.

    seq~n.attempt:offset,n.attempt:offset

`seq` is that of the last event. A part that is not listed has been read to its end, or not at all.
The text is plain to read in a log, and opaque to clients.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from runwire.content.part import OPEN_MAX
from runwire.errors import InvalidRequest
from runwire.stream.cursor import parse_cursor

PARTS_MAX: Final = OPEN_MAX
"""Places of one cursor: only open parts have one."""
_PLACE: Final = re.compile(r"([1-9][0-9]{0,9})\.([1-9][0-9]{0,9}):(0|[1-9][0-9]{0,17})")

Places: TypeAlias = Mapping[int, tuple[int, int]]
"""The attempt and the number of bytes that a client has, by the number of the part."""


@dataclass(frozen=True, slots=True)
class MixedCursor:
    """`places` says how many bytes of which attempt the client has, by the number of the part."""

    seq: int
    places: Places = field(default_factory=dict)

    @property
    def text(self) -> str:
        """As the id of a frame."""
        return id_at(self.seq, self.places)


def id_at(seq: int, places: Places) -> str:
    """The text of the cursor with these places."""
    if not places:
        return str(seq)
    return f"{seq}~" + ",".join([f"{n}.{attempt}:{at}" for n, (attempt, at) in sorted(places.items())])


def parse_mixed_cursor(text: str, *, where: str) -> MixedCursor:
    """Raises InvalidRequest (`invalid_cursor`). A seq alone is a cursor, too."""
    seq, tilde, listed = text.partition("~")
    cursor = parse_cursor(from_seq=seq)
    if not tilde:
        return MixedCursor(cursor.seq)
    places: dict[int, tuple[int, int]] = {}
    words = listed.split(",")
    for word in words[: PARTS_MAX + 1]:
        match = _PLACE.fullmatch(word)
        if match is None or len(words) > PARTS_MAX or int(match[1]) in places:
            raise InvalidRequest(f"{where} is not an id of this stream.", code="invalid_cursor")
        places[int(match[1])] = (int(match[2]), int(match[3]))
    return MixedCursor(cursor.seq, places)
