"""Parses server-sent events by https://html.spec.whatwg.org/multipage/server-sent-events.html (9.2.6, interpreting an
event stream). Pure: bytes in, events out, in pieces of any size.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import Final

MAX_EVENT_CHARS: Final = 1_048_576
"""Most characters of one unfinished line or event, so that an endless one cannot fill the memory."""

_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_DIGITS: Final = re.compile(r"[0-9]+")


class EventTooLong(ValueError):
    """A line or event exceeds MAX_EVENT_CHARS: the bytes are not an event stream, or not one to trust."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """A dispatched event. `last_event_id` is its own id, or that of an earlier block."""

    event: str
    data: str
    last_event_id: str


class SseParser:
    """Takes the bytes of one connection in order. Discards an unfinished event at their end, as the rules say.

    A reconnect sends `last_event_id`; pass it to the parser of the next connection. `retry_ms` is the server's
    reconnection time in milliseconds, None until the server sends one.
    """

    def __init__(self, *, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.retry_ms: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._line = ""
        self._after_cr = False
        self._id = last_event_id
        self._event = ""
        self._data: list[str] = []
        self._data_chars = 0

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events that `chunk` completes. Raises EventTooLong."""
        text = self._decoder.decode(chunk)
        if self._after_cr and text:
            self._after_cr = False
            text = text.removeprefix("\n")  # the second half of a CR LF: that line has ended already
        if not text:
            return []
        self._after_cr = text.endswith("\r")
        *lines, rest = _LINE_END.split(text)
        if lines:
            lines[0] = self._line + lines[0]
            self._line = rest
        else:
            self._line += rest
        events = [event for line in lines if (event := self._take(line)) is not None]
        if len(self._line) + self._data_chars > MAX_EVENT_CHARS:
            raise EventTooLong(f"more than {MAX_EVENT_CHARS} characters without an end")
        return events

    def _take(self, line: str) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            self._data_chars += len(value) + 1
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and _DIGITS.fullmatch(value):
            self.retry_ms = int(value[:12])
        return None  # a comment has an empty name; it and unknown fields are passed over

    def _dispatch(self) -> ServerEvent | None:
        """The end of a block. One without data sets the last event id and is no event."""
        self.last_event_id = self._id
        event, data = self._event, self._data
        self._event, self._data, self._data_chars = "", [], 0
        return ServerEvent(event or "message", "\n".join(data), self.last_event_id) if data else None
