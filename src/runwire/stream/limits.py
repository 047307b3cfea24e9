"""The bounds of a stream, derived from the settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from runwire.stream.settings import StreamSettings

FRAME_MAX: Final = 640
"""No event frame is longer: a run id of 128, a fn of 256 and two seqs of 19 digits leave room."""
PAGE_EVENTS_MAX: Final = 1000
BATCHES_MAX: Final = 4
"""The most batches of sends under way at once. The native sender has room for as many."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Durations are seconds.

    RUNWIRE_SSE_SLOW_BYTES bounds the bytes buffered for one client. A client gets nothing more while its transport
    holds over `pause_bytes`, until `resume_bytes` or fewer are left; a client that needs `slow_s` for that is
    disconnected. A piece has at most `slice_bytes`, so that even a client that takes nothing of every batch under way
    stays within the bound.
    """

    retry_ms: int
    heartbeat_s: float
    max_age_s: float
    slow_s: float
    silence_s: float
    ring_events: int
    ring_bytes: int
    idle_runs: int
    slice_bytes: int
    pause_bytes: int
    resume_bytes: int
    page_events: int = field(init=False)
    """So many events fit into a piece, whatever their length."""

    def __post_init__(self) -> None:
        page_events = max(min(PAGE_EVENTS_MAX, self.slice_bytes // FRAME_MAX), 1)
        object.__setattr__(self, "page_events", page_events)

    @classmethod
    def of(cls, settings: StreamSettings) -> StreamLimits:
        slice_bytes = settings.sse_slow_bytes // BATCHES_MAX
        return cls(
            retry_ms=settings.sse_retry_ms,
            heartbeat_s=settings.sse_heartbeat_s,
            max_age_s=settings.sse_max_age_s,
            slow_s=settings.sse_slow_s,
            silence_s=settings.sse_silence_s,
            ring_events=settings.sse_ring_events,
            ring_bytes=settings.sse_ring_bytes_max,
            idle_runs=settings.sse_idle_runs_max,
            slice_bytes=slice_bytes,
            pause_bytes=settings.sse_slow_bytes // 4,
            resume_bytes=settings.sse_slow_bytes // 16,
        )
