"""Alerts on what clients meet before a run exists: no API, refused starts, keys out of reach, processes that crash."""

from __future__ import annotations

from typing import Final

from runwire.ops.rules import JOBS, Alert, Group
from runwire.ops.thresholds import Severity, Thresholds

_CRITICAL, _PAGE = Severity.CRITICAL, Severity.PAGE
_REFUSED_FOR_RUNS: Final = 'code="too_many_runs"'
_KEYS_AWAY: Final = 'code="auth_unavailable"'


def service_alerts(thresholds: Thresholds) -> Group:
    return Group(
        "runwire-service",
        (_api_down(thresholds), _starts_refused(thresholds), _auth_unavailable(thresholds), _crash_loop(thresholds)),
    )


def _api_down(thresholds: Thresholds) -> Alert:
    # Of the role nothing is exported by a dead process: an API is what had room for connections lately.
    window = thresholds.duration(thresholds.window("api_down", _PAGE))
    apis = f"(last_over_time(runwire_http_descriptors_max[{window}]) > 0)"
    return Alert(
        "ApiDown",
        f"(count by (job) {apis}\nunless on (job)\n"
        f"count by (job) ({apis} and on (job, instance) (up == 1))) > {thresholds.value('api_down', _PAGE):g}",
        _PAGE,
        "No API process answers: nobody can start, watch or cancel a run",
        "None of the {{ $value | humanize }} API processes that {{ $labels.job }} had within"
        f" {window} answers its scrapes.",
        thresholds.level("api_down", _PAGE).for_,
    )


def _starts_refused(thresholds: Thresholds) -> Alert:
    window = thresholds.duration(thresholds.window("starts_refused", _CRITICAL))
    return Alert(
        "StartsRefused",
        f"sum by (job) (increase(runwire_requests_refused_total{{{_REFUSED_FOR_RUNS}}}[{window}])) >"
        f" {thresholds.value('starts_refused', _CRITICAL):g}",
        _CRITICAL,
        "Starts are refused, because too many runs are open",
        f"{{{{ $labels.job }}}} refused {{{{ $value | humanize }}}} starts within {window}, because"
        " RUNWIRE_RUNS_OPEN_MAX runs are open.",
        thresholds.level("starts_refused", _CRITICAL).for_,
    )


def _auth_unavailable(thresholds: Thresholds) -> Alert:
    window = thresholds.duration(thresholds.window("auth_unavailable", _PAGE))
    return Alert(
        "AuthUnavailable",
        f"sum by (job) (increase(runwire_access_refused_total{{{_KEYS_AWAY}}}[{window}])) >"
        f" {thresholds.value('auth_unavailable', _PAGE):g}",
        _PAGE,
        "Callers with tokens are refused, because the issuer's keys are not available",
        f"{{{{ $labels.job }}}} refused {{{{ $value | humanize }}}} requests within {window}, because it has no keys"
        " to verify their tokens.",
        thresholds.level("auth_unavailable", _PAGE).for_,
    )


def _crash_loop(thresholds: Thresholds) -> Alert:
    window = thresholds.duration(thresholds.window("crash_loop", _CRITICAL))
    return Alert(
        "CrashLoop",
        f"max by (job, instance) (changes(process_start_time_seconds{{{JOBS}}}[{window}])) >"
        f" {thresholds.value('crash_loop', _CRITICAL):g}",
        _CRITICAL,
        "A process ends and starts again and again",
        f"{{{{ $labels.instance }}}} of {{{{ $labels.job }}}} has started {{{{ $value | humanize }}}} times within"
        f" {window}.",
        thresholds.level("crash_loop", _CRITICAL).for_,
    )
