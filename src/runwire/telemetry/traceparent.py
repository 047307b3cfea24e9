"""W3C Trace Context `traceparent` (https://www.w3.org/TR/trace-context-2/#traceparent-header), read by hand.

The SDK's propagator takes ten times as long, and the hot path asks only one thing: is this run sampled?
"""

from __future__ import annotations

import random
import re
from typing import Final

import msgspec

_SAMPLED: Final = 0x01
# The flags this version of the specification gives a meaning to: sampled and random-trace-id.
_KNOWN_FLAGS: Final = 0x03
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """Which trace, and which span of it is the parent; both as lower-case hex, 32 and 16 digits."""

    trace_id: str
    span_id: str
    flags: int

    @property
    def sampled(self) -> bool:
        return bool(self.flags & _SAMPLED)

    def __str__(self) -> str:
        """The header, version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def parse_traceparent(header: str | None) -> TraceContext | None:
    """The parsed header, or None when it is absent or malformed (then a new trace starts, as §3.2.2.5 asks)."""
    if header is None or (found := _TRACEPARENT.fullmatch(header)) is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return TraceContext(trace_id, span_id, int(flags, 16) & _KNOWN_FLAGS)


def mint_trace(*, sampled: bool) -> TraceContext:
    """A new trace that no span has been seen of yet."""
    trace_id = random.getrandbits(128) or 1  # ids must be unique, not secret
    span_id = random.getrandbits(64) or 1
    return TraceContext(f"{trace_id:032x}", f"{span_id:016x}", _SAMPLED if sampled else 0)


def sampled_trace_id(traceparent: str | None) -> str | None:
    """The trace id of a sampled run, for exemplars; None for all others. Takes what is stored with a run.

    Not for headers: it trusts that `start_run_trace` or `str(TraceContext)` made the text.
    """
    if traceparent is None or traceparent[-1] not in "13579bdf":
        return None
    return traceparent[3:35]


def with_span(traceparent: str, span_id: str) -> str:
    """The same trace with another of its spans as the parent. Takes what is stored with a run."""
    return f"{traceparent[:36]}{span_id}{traceparent[52:]}"
