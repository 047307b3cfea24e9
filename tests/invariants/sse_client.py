"""A client of a stream as far as bytes go: it undoes the chunks, reads the events and knows its last id."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from runwire.stream import Outlet


@dataclass
class SseReader:
    """Reads one connection's body as the HTML standard says; a block that was cut off never happened."""

    chunked: bool
    last_id: int | None = None
    events: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    end: dict[str, Any] | None = None
    _raw: bytes = b""
    _body: bytes = b""

    def feed(self, data: bytes) -> None:
        if self.chunked:
            self._raw += data
            self._dechunk()
        else:
            self._body += data
        *blocks, self._body = self._body.split(b"\n\n")
        for block in blocks:
            self._read(block.decode("utf-8"))

    def _dechunk(self) -> None:
        while True:
            size, line_end, rest = self._raw.partition(b"\r\n")
            if not line_end or len(rest) < int(size, 16) + 2:
                return
            length = int(size, 16)
            assert rest[length : length + 2] == b"\r\n", "a chunk ends with CRLF"
            self._body += rest[:length]
            self._raw = rest[length + 2 :]

    def _read(self, block: str) -> None:
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            if name:
                assert name not in fields, f"two lines {name!r} in one block"
                fields[name] = value.removeprefix(" ")
        assert self.end is None, f"{block!r} after the end"
        if "id" in fields:
            self.last_id = int(fields["id"])
        if "data" in fields:
            data = json.loads(fields["data"])
            if fields.get("event") == "end":
                assert "id" not in fields, "the end frame has an id"
                self.end = data
            else:
                self.events.append((int(fields["id"]), data))


class Wire:
    """The connection between a stream and a reader. Stalled, it keeps what was written; cut, it loses that."""

    def __init__(
        self, *, chunked: bool, on_event: Callable[[int, dict[str, Any]], None], on_defect: Callable[[str], None]
    ) -> None:
        """`on_defect` hears what is wrong with the bytes: what `write` raised would be taken for a broken transport."""
        self.reader = SseReader(chunked)
        self.stalled = False
        self._closed = False
        self._unread = b""
        self._on_event = on_event
        self._on_defect = on_defect

    def outlet(self) -> Outlet:
        return Outlet(self._write, self._buffered, lambda: self._closed, chunked=self.reader.chunked)

    def flow(self) -> None:
        self.stalled = False
        self._arrive(len(self._unread))

    def cut(self, *, after: float) -> None:
        """The connection is gone; of what was under way, this share still arrived."""
        self._arrive(int(len(self._unread) * after))
        self._closed = True
        self._unread = b""

    def _write(self, data: bytes) -> None:
        if self._closed:
            self._on_defect("written to a closed connection")
        self._unread += data
        if not self.stalled:
            self._arrive(len(self._unread))

    def _buffered(self) -> int:
        return 10**9 if self.stalled else 0

    def _arrive(self, count: int) -> None:
        known = len(self.reader.events)
        arrived, self._unread = self._unread[:count], self._unread[count:]
        try:
            self.reader.feed(arrived)
        except (AssertionError, ValueError, KeyError) as defect:
            self._on_defect(f"{defect!r} in {arrived!r}")
        for seq, event in self.reader.events[known:]:
            self._on_event(seq, event)
