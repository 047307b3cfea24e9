"""Settings of streams."""

from __future__ import annotations

from pydantic import Field

from runwire.settings_group import SettingsGroup


class StreamSettings(SettingsGroup):
    """Settings of streams."""

    sse_runs_max: int = Field(
        500, ge=1, le=1000, description="Most open runs of one stream of many runs, and most runs of a list."
    )
    sse_checkpoint_keep_s: float = Field(
        86_400.0, ge=3600, description="Age at which the cursor of a stream of many runs expires."
    )
    sse_retry_ms: int = Field(2000, ge=1, description="Reconnection time that a stream sends (`retry:`).")
    sse_heartbeat_s: float = Field(15.0, gt=0, description="Longest silence on a stream before a comment is sent.")
    sse_max_age_s: float = Field(3600.0, gt=0, description="Age at which a stream ends, resumable (jittered by 10 %).")
    sse_slow_bytes: int = Field(262_144, ge=65_536, description="Most bytes buffered for one client.")
    sse_slow_s: float = Field(
        10.0, gt=0, description="Seconds a client may stay slow before its stream ends, resumable."
    )
    sse_ring_events: int = Field(1024, ge=1, description="Latest events of a run kept in memory while it has streams.")
    sse_ring_bytes_max: int = Field(
        268_435_456,
        ge=1_048_576,
        description="Most bytes of such events over all runs of the process. Streams read older events again from "
        "PostgreSQL.",
    )
    sse_idle_runs_max: int = Field(
        1000, ge=0, description="Runs whose events stay in memory for a moment after their last stream, for reconnects."
    )
    sse_silence_s: float = Field(
        5.0, gt=0, description="Seconds of silence on the bus after which a stream checks the run's stored tail."
    )
    replays_max: int = Field(50, ge=0, description="Most replays of closed runs in one process at a time.")
