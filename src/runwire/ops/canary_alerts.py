"""Alerts of the canary: users fail, and nobody looks any more whether they do."""

from __future__ import annotations

from typing import Final

from runwire.ops.rules import Alert, Group, above, limit
from runwire.ops.thresholds import Severity, Thresholds

_CRITICAL, _PAGE = Severity.CRITICAL, Severity.PAGE
_LAST_ROUND: Final = "runwire_canary_last_round_timestamp_seconds"


def canary_alerts(thresholds: Thresholds) -> Group:
    return Group("runwire-canary", (_failing(thresholds), _silent(thresholds)))


def _failing(thresholds: Thresholds) -> Alert:
    failed = "max by (job, instance) (runwire_canary_failed_rounds)"
    return Alert(
        "CanaryFailing",
        above(failed, thresholds, "canary_failing", _PAGE),
        _PAGE,
        "The canary fails: users cannot start, watch, signal or cancel runs",
        "The last {{ $value | humanize }} rounds of the canary {{ $labels.instance }} of {{ $labels.job }} failed"
        f" (limit {limit(thresholds, 'canary_failing', _PAGE)}).",
    )


def _silent(thresholds: Thresholds) -> Alert:
    # A canary that is gone exports nothing, so what it exported last counts.
    window = thresholds.duration(thresholds.window("canary_silent", _CRITICAL))
    age = f"time() - max by (job) (last_over_time({_LAST_ROUND}[{window}]))"
    return Alert(
        "CanarySilent",
        above(age, thresholds, "canary_silent", _CRITICAL),
        _CRITICAL,
        "The canary walks no rounds, so nobody sees what users see",
        "The canary of {{ $labels.job }} ended its last round {{ $value | humanizeDuration }} ago"
        f" (limit {limit(thresholds, 'canary_silent', _CRITICAL)}).",
        thresholds.level("canary_silent", _CRITICAL).for_,
    )
