"""Alerts on single processes: what is wrong with their place in the deployment, though all of their parts work."""

from __future__ import annotations

from runwire.ops.rules import Alert, Group, above, limit
from runwire.ops.thresholds import Severity, Thresholds

_WARNING, _PAGE = Severity.WARNING, Severity.PAGE


def process_alerts(thresholds: Thresholds) -> Group:
    return Group("runwire-processes", (_readiness_lost(thresholds), _clock_skew(thresholds)))


def _readiness_lost(thresholds: Thresholds) -> Alert:
    """Once for a deployment, however many of its roles are affected."""
    ready = "runwire_role_info and on (job, instance) (runwire_ready == 1)"
    lost = f"count by (job, role) (runwire_role_info) unless on (job, role) count by (job, role) ({ready})"
    return Alert(
        "ReadinessLost",
        above(f"count by (job) ({lost})", thresholds, "readiness_lost", _PAGE),
        _PAGE,
        "No process of a role is ready: a load balancer sends it nothing",
        "Of {{ $value | humanize }} roles of {{ $labels.job }}, no process says by /readyz that it is ready"
        f" (limit {limit(thresholds, 'readiness_lost', _PAGE)}).",
        thresholds.level("readiness_lost", _PAGE).for_,
    )


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
