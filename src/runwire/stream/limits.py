"""The bounds of a stream, worked out from the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from runwire.settings import Settings
from runwire.stream.outlet import JOBS

FRAME_MAX: Final = 640
"""No event frame is longer: a run id of 128, a fn of 256 and two seqs of 19 digits leave room."""
PAGE_EVENTS_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """Durations in seconds. `sse_slow_bytes` is a bound on what is buffered for a client.

    Written to by its transport, one has `pause_bytes` and a slice of `slice_bytes` at most: with more than the former
    it gets nothing, until `resume_bytes` or fewer are left; one that takes `slow_s` for that is closed. Written to past
    its transport, one may turn out to take nothing of a slice in each of the batches that are under way.
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
    idle_hubs: int
    ring_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        slice_bytes = settings.sse_slow_bytes // (JOBS or 4)
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
            idle_hubs=settings.sse_idle_runs_max,
            ring_bytes=settings.sse_ring_bytes_max,
        )
