"""Time as runwire reads it: monotonic for durations, PostgreSQL's clock for anything stored."""

from __future__ import annotations

import time

monotonic = time.monotonic
"""Seconds of a clock that never goes back; for durations and deadlines."""


def wall_us() -> int:
    """Microseconds since the Unix epoch by this machine's clock."""
    return time.time_ns() // 1000
