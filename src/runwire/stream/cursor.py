"""Where a client is in a log. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from runwire.errors import InvalidRequest

CURSOR_MAX: Final = 2**63 - 1
"""The largest seq PostgreSQL's bigint holds."""
_DIGITS_MAX: Final = len(str(CURSOR_MAX))


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last seq a client has; it wants the events above. `resumed`: its EventSource sent the seq by itself."""

    seq: int
    resumed: bool = False


def parse_cursor(*, from_seq: str | None, last_event_id: str | None = None) -> Cursor:
    """The cursor a request asks for; 0, the start of the log, when it names none.

    `Last-Event-ID` wins over `fromSeq`, since a native EventSource repeats its first URL on every reconnect.
    Raises InvalidRequest (`invalid_cursor`) unless the winner is a decimal from 0 to 2**63-1.
    """
    if last_event_id:
        return Cursor(_seq(last_event_id, where="Last-Event-ID"), resumed=True)
    return Cursor(0 if from_seq is None else _seq(from_seq, where="fromSeq"))


def _seq(text: str, *, where: str) -> int:
    # The length goes first: int() of a long string takes quadratic time.
    if len(text) <= _DIGITS_MAX and text.isascii() and text.isdigit() and (seq := int(text)) <= CURSOR_MAX:
        return seq
    raise InvalidRequest(f"{where} must be a decimal from 0 to {CURSOR_MAX}", code="invalid_cursor")
