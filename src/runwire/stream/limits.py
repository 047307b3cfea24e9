"""The bounds of a stream, worked out from the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from runwire.settings import Settings

FRAME_MAX: Final = 640
"""No event frame is longer: a run id of 128, a fn of 256 and two seqs of 19 digits leave room."""
PAGE_EVENTS_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """Durations in seconds. The bytes add up: `pause_bytes` + 2 `slice_bytes` = `sse_slow_bytes`, which so is a bound.

    A stream with more than `pause_bytes` in its buffer gets nothing, until `resume_bytes` or fewer are left; one for
    which that takes `slow_s` is closed. Nothing longer than `slice_bytes` is written at once, and one such piece may be
    under way while the next is written.
    """

    retry_ms: int
    heartbeat_s: float
    max_age_s: float
    slow_s: float
    silence_s: float
    ring_events: int
    page_events: int
    slice_bytes: int
    pause_bytes: int
    resume_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        slice_bytes = settings.sse_slow_bytes * 3 // 8
        return cls(
            retry_ms=settings.sse_retry_ms,
            heartbeat_s=settings.sse_heartbeat_s,
            max_age_s=settings.sse_max_age_s,
            slow_s=settings.sse_slow_s,
            silence_s=settings.sse_silence_s,
            ring_events=settings.sse_ring_events,
            page_events=min(PAGE_EVENTS_MAX, slice_bytes // FRAME_MAX),
            slice_bytes=slice_bytes,
            pause_bytes=settings.sse_slow_bytes // 4,
            resume_bytes=settings.sse_slow_bytes // 16,
        )
