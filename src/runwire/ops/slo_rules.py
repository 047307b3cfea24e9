"""The service level objectives: how many events were bad, how fast that burns the budget, and what is left of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from runwire.ops import durations
from runwire.ops.rules import Alert, Group, Recording, bucket
from runwire.ops.thresholds import BurnPair, Objective, Slo, Thresholds

_RATE_WINDOW: Final = "5m"
EVENTS: Final = f"job:runwire_slo_events:rate{_RATE_WINDOW}"
BAD: Final = f"job:runwire_slo_bad_events:rate{_RATE_WINDOW}"
RATIO: Final = "job:runwire_slo_bad:ratio_"
BUDGET_LEFT: Final = "job:runwire_slo_error_budget_left:ratio"

_HISTOGRAMS: Final = {
    "publish": "runwire_publish_lag_seconds",
    "deliver": "runwire_delivery_lag_seconds",
    "run": "runwire_run_duration_seconds",
}
_GOOD: Final = {"run": ('outcome!="failed"',)}
"""More matchers of what is good."""
_STORAGE_FAILS: Final = "storage_unavailable|partition_missing"
_ALERT_NAMES: Final = {"start": "Start", "publish": "Publish", "append": "Append", "deliver": "Delivery", "run": "Run"}
# A burn rate of days needs no finer look, and 30 days of a series of every second would be slow to sum.
_INTERVAL: Final = "1m"


def slo_recordings(thresholds: Thresholds) -> Group:
    """Rates first, then what is bad among them over every window that an alert or dashboard uses."""
    slos = thresholds.slos
    rates = tuple(rule for name in slos.objectives for rule in _rates(name, thresholds=thresholds))
    ratios = tuple(Recording(f"{RATIO}{window}", _ratio(window, thresholds)) for window in _windows(thresholds))
    left = tuple(
        Recording(
            BUDGET_LEFT,
            f'1 - {RATIO}{slos.window}{{slo="{name}"}} / {_allowed(objective)}',
            (("slo", name),),
        )
        for name, objective in slos.objectives.items()
    )
    return Group("runwire-slo-recordings", (*rates, *ratios, *left), interval=_INTERVAL)


def slo_alerts(thresholds: Thresholds) -> Group:
    """For each objective a fast and a slow burn; each a pair of windows, either of two pairs."""
    return Group("runwire-slo", tuple(_burns(thresholds)))


def alert_name(slo: str, speed: str) -> str:
    return f"{_ALERT_NAMES[slo]}Slo{speed.capitalize()}Burn"


def _burns(thresholds: Thresholds) -> Iterator[Alert]:
    slos = thresholds.slos
    for name, objective in slos.objectives.items():
        for speed, burn in slos.burn_rates.items():
            yield Alert(
                alert_name(name, speed),
                "\nor\n".join(_pair(name, objective, pair, thresholds, at_least=burn.at_least) for pair in burn.pairs),
                burn.severity,
                f"The error budget of {name!r} burns {'fast' if speed == 'fast' else 'too fast'}",
                f"{{{{ $value | humanizePercentage }}}} are not {objective.title()} in {{{{ $labels.job }}}};"
                f" the objective is {objective.objective * 100:g} % over {thresholds.slos.window}.",
            )


def _pair(name: str, objective: Objective, pair: BurnPair, thresholds: Thresholds, *, at_least: int) -> str:
    limit = f"{pair.factor * (1 - objective.objective):.6g}"
    # Rates are recorded once in an interval, so that their sum times the interval is a number of events.
    interval_s = durations.seconds(thresholds.duration(_INTERVAL))
    bad = f'sum_over_time({BAD}{{slo="{name}"}}[{thresholds.duration(pair.long)}])'
    over = (
        f'{RATIO}{pair.long}{{slo="{name}"}} > {limit}',
        f'{RATIO}{pair.short}{{slo="{name}"}} > {limit}',
        f"{bad} * {interval_s:.10g} >= {at_least / thresholds.scale:.10g}",
    )
    return "(\n  " + "\n  and\n  ".join(over) + "\n)"


def _rates(name: Slo, *, thresholds: Thresholds) -> Iterator[Recording]:
    window = thresholds.duration(_RATE_WINDOW)
    labels = (("slo", name),)
    if name == "append":
        # Calls on both sides: a call may append many events, and one that fails appends none.
        stored = f"sum by (job) (rate(runwire_append_duration_seconds_count[{window}]))"
        # Refusals (a stale fence, a closed run, ...) are right answers to a wrong caller; only the storage fails.
        failed = f'sum by (job) (rate(runwire_append_failures_total{{reason=~"{_STORAGE_FAILS}"}}[{window}]))'
        yield Recording(EVENTS, f"{stored} + {failed}", labels)
        yield Recording(BAD, failed, labels)
        return
    if name == "start":
        # An answer of 4xx is the caller's own fault. Too many open runs are not: 503.
        answered = 'sum by (job) (rate(runwire_http_requests_total{{route="startRun", status{}}}[{}]))'
        yield Recording(EVENTS, answered.format('!="4xx"', window), labels)
        yield Recording(BAD, answered.format('="5xx"', window), labels)
        return
    histogram = _HISTOGRAMS[name]
    matchers = ", ".join([bucket(thresholds.within_s(name) or 0), *_GOOD.get(name, ())])
    good = f"sum by (job) (rate({histogram}_bucket{{{matchers}}}[{window}]))"
    every = f"sum by (job) (rate({histogram}_count[{window}]))"
    yield Recording(EVENTS, every, labels)
    yield Recording(BAD, f"clamp_min({every} - {good}, 0)", labels)


def _ratio(window: str, thresholds: Thresholds) -> str:
    """Bad among all, by number: a busy hour weighs more than a quiet one. Nothing where nothing happened."""
    if window == _RATE_WINDOW:
        return f"{BAD}\n/\n({EVENTS} > 0)"
    over = thresholds.duration(window)
    return f"sum_over_time({BAD}[{over}])\n/\n(sum_over_time({EVENTS}[{over}]) > 0)"


def _allowed(objective: Objective) -> str:
    return f"{1 - objective.objective:.6g}"


def _windows(thresholds: Thresholds) -> list[str]:
    pairs = [pair for burn in thresholds.slos.burn_rates.values() for pair in burn.pairs]
    return list(dict.fromkeys([*(w for pair in pairs for w in (pair.short, pair.long)), thresholds.slos.window]))
