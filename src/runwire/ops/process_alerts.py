"""Alerts on single processes: what is wrong with their place in the deployment, though all of their parts work."""

from __future__ import annotations

from typing import Final

from runwire.ops.rules import Alert, Group, above, limit
from runwire.ops.thresholds import Severity, Thresholds

_WARNING: Final = Severity.WARNING


def process_alerts(thresholds: Thresholds) -> Group:
    return Group("runwire-processes", (_clock_skew(thresholds),))


def _clock_skew(thresholds: Thresholds) -> Alert:
    apart = "max by (job, instance) (abs(runwire_clock_offset_seconds) - runwire_clock_offset_bound_seconds)"
    return Alert(
        "ClockSkew",
        above(apart, thresholds, "clock_skew", _WARNING),
        _WARNING,
        "The clock of a process's machine is not PostgreSQL's",
        "The clock of {{ $labels.instance }} differs from PostgreSQL's by at least {{ $value | humanizeDuration }}"
        f" (limit {limit(thresholds, 'clock_skew', _WARNING)}).",
        thresholds.level("clock_skew", _WARNING).for_,
    )
