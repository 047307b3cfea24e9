"""The transcript of a client of a mixed stream. It believes nothing that it cannot check.

It has the memory of a native EventSource: `cursor`, the id of its last frame, is all that it sends when it comes back.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any, Final

from crash.wire import Block

STATES: Final = ("opened", "sealed", "abandoned")


@dataclass(slots=True)
class Shown:
    """One part, as the client shows it. `opened` counts the attempts that events told of."""

    name: str
    opened: int = 0
    ended: bool = False
    attempt: int = 0
    data: bytearray = field(default_factory=bytearray)


class Transcript:
    """Takes the blocks of one run's mixed stream over any number of connections. Raises AssertionError at the first
    that is lost, comes twice, or comes out of order.
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.cursor = "0"
        self.events: list[dict[str, Any]] = []
        self.parts: dict[int, Shown] = {}
        self.sealed: dict[int, bytes] = {}
        """The bytes that were shown when the event came that seals a part."""
        self.end: dict[str, Any] | None = None
        self.resets = 0

    @property
    def size(self) -> int:
        """Bytes that are shown."""
        return sum(len(shown.data) for shown in self.parts.values())

    def take(self, block: Block) -> None:
        fields = block.fields
        assert self.end is None, f"{self.run_id}: {block} after the end"
        kind = fields.get("event")
        if kind == "end":
            assert "id" not in fields, f"{self.run_id}: the end has an id"
            self._end(json.loads(fields["data"]))
        elif kind == "part":
            self._part(json.loads(fields["data"]))
        elif "data" in fields:
            self._event(json.loads(fields["data"]))
        elif "id" in fields:
            assert fields["id"] == self.cursor, f"{self.run_id}: {fields['id']} is not the cursor {self.cursor}"
        self.cursor = fields.get("id", self.cursor)

    def _event(self, event: dict[str, Any]) -> None:
        seq = len(self.events) + 1
        assert (event["runId"], event["seq"]) == (self.run_id, seq), f"{self.run_id}: {event} after {seq - 1}"
        self.events.append(event)
        prefix, _, rest = event.get("fn", "").partition(":")
        name, _, rest = rest.partition(":")
        number, _, state = rest.partition(":")
        if prefix != "part" or state not in STATES:
            return
        n = int(number)
        shown = self.parts.setdefault(n, Shown(name))
        assert shown.name == name, f"{self.run_id}: part {n} was {shown.name}, and is {name}"
        if state == "opened":
            assert shown.ended == (shown.opened > 0), f"{self.run_id}: part {n} is opened twice"
            assert n not in self.sealed, f"{self.run_id}: part {n} is opened after it was sealed"
            shown.opened, shown.ended = shown.opened + 1, False
            return
        assert not shown.ended, f"{self.run_id}: part {n} ends twice"
        shown.ended = True
        if state == "sealed":
            self.sealed[n] = bytes(shown.data)

    def _part(self, frame: dict[str, Any]) -> None:
        n, attempt, offset = frame["part"], frame["attempt"], frame["offset"]
        what = f"{self.run_id}: part {n}, attempt {attempt} at {offset}"
        assert n in self.parts, f"{what} before the event that opens it"
        shown = self.parts[n]
        assert not shown.ended, f"{what} after the event that ends it"
        assert attempt == shown.opened, f"{what}, of which {shown.opened} are opened"
        if frame.get("reset"):
            assert attempt > max(shown.attempt, 1), f"{what} resets attempt {shown.attempt}"
            self.resets += shown.attempt > 0
            shown.attempt = attempt
            shown.data.clear()
        elif shown.attempt == 0 and attempt == 1:
            shown.attempt = attempt
        assert (attempt, offset) == (shown.attempt, len(shown.data)), (
            f"{what} follows attempt {shown.attempt} at {len(shown.data)}"
        )
        shown.data += frame["text"].encode() if "text" in frame else base64.b64decode(frame.get("base64", ""))

    def _end(self, end: dict[str, Any]) -> None:
        assert self.events[-1]["type"] == "RunFinished", f"{self.run_id}: {end} before the terminal event"
        assert (end["runId"], end["lastSeq"]) == (self.run_id, len(self.events)), end
        self.end = end
