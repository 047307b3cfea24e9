"""Overview: is it well, and if not, which part?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from runwire.ops.dashboards.board import Board, Row
from runwire.ops.dashboards.panels import (
    BLUE,
    GREEN,
    INSTANCE,
    JOB,
    LEVEL_COLORS,
    LIGHT,
    ORANGE,
    PURPLE,
    RED,
    YELLOW,
    Limit,
    Query,
    alerts_table,
    bars,
    coloured,
    lines,
    number,
    percentiles,
    quantile,
    rate,
)
from runwire.ops.slo_rules import BUDGET_LEFT, RATIO
from runwire.ops.thresholds import Thresholds

_FIRING = 'ALERTS{alertstate="firing", alertname!="Watchdog", job=~"$job|"}'
STATE_COLORS = {"pending": YELLOW, "started": BLUE, "waiting": PURPLE}


def board(thresholds: Thresholds) -> Board:
    runbook = thresholds.links.runbook
    lag = Limit.of(thresholds, "publish_lag", runbook=f"{runbook}#publish-lag")
    oldest = Limit.of(thresholds, "oldest_unpublished", runbook=f"{runbook}#oldest-unpublished-event")
    budget = Limit.left(thresholds, "budget_spent", runbook=f"{runbook}#alerts")
    stats = (
        number(
            "Firing alerts",
            "Alerts that fire now, but for the watchdog. The table below names them.",
            f"count({_FIRING}) or vector(0)",
            unit="none",
            limit=Limit.any(RED, runbook=f"{runbook}#alerts"),
        ),
        number(
            "Violations",
            "Runs whose log, cursor or state breaks an invariant, as of the observer's last look.",
            f"sum(max by (job, invariant) (runwire_invariant_violating_runs{{{JOB}}}))",
            unit="none",
            limit=Limit.above(thresholds, "invariant", runbook=f"{runbook}#sequence-gap"),
        ),
        number(
            "Lag p95",
            "Publish lag: from an event's commit to its being on the bus. Empty while nothing is published.",
            quantile(0.95, "runwire_publish_lag_seconds"),
            unit="s",
            limit=lag,
        ),
        number(
            "Backlog",
            "Events in the log that are not published.",
            f"sum(max by (job) (runwire_outbox_backlog_events{{{JOB}}}))",
            unit="short",
            base=BLUE,
        ),
        number(
            "Unpublished",
            "Age of the event that has waited longest for the publisher.",
            f"max(runwire_outbox_oldest_age_seconds{{{JOB}}})",
            unit="s",
            limit=oldest,
        ),
        number(
            "Active runs",
            "Runs that are not over.",
            f"sum(max by (job, state) (runwire_runs_active{{{JOB}}}))",
            unit="short",
            base=BLUE,
        ),
        number(
            "Open streams",
            "Clients that watch a run now.",
            f"sum(runwire_sse_connections{{{INSTANCE}}})",
            unit="short",
            base=BLUE,
        ),
        number(
            "Budget left",
            f"Error budget of {thresholds.slos.window} that the worst objective has left.",
            f"min({BUDGET_LEFT}{{{JOB}}})",
            unit="percentunit",
            limit=budget,
            base=RED,
            decimals=0,
        ),
    )
    rates = lines(
        "Appended, published, delivered",
        "The three stages. Appended and published must run together; delivered is more or less, as viewers are many "
        "or none.",
        [
            Query(rate("runwire_events_appended_total"), "appended", BLUE),
            Query(rate("runwire_events_published_total"), "published", PURPLE),
            Query(rate("runwire_events_delivered_total"), "delivered", GREEN),
        ],
        unit="eps",
    )
    canary = (
        number(
            "Canary",
            "1 when the last round of each canary was good. Empty without `runwire canary`.",
            f"min(runwire_canary_up{{{JOB}}})",
            unit="none",
            base=RED,
            limit=Limit.any(GREEN, runbook=f"{runbook}#canaryfailing"),
        ),
        lines(
            "Canary, p95 by step",
            "How long an outside client waits, from the call that begins each step.",
            [Query(quantile(0.95, "runwire_canary_step_seconds", by="step"), "{{step}}", exemplars=True)],
            unit="s",
            log=True,
            many=True,
        ),
        lines(
            "Canary, rounds and failures",
            "Rounds of the canary by outcome, and the failed ones by step.",
            [
                Query(rate("runwire_canary_rounds_total", by="outcome"), "{{outcome}}"),
                Query(rate("runwire_canary_failures_total", by="step"), "failed: {{step}}"),
            ],
            unit="suffix:/s",
            rare=True,
            many=True,
        ),
        lines(
            "Canary, last good round",
            "Time since the last good round of each canary.",
            [
                Query(
                    f"time() - max by (instance) (runwire_canary_last_success_timestamp_seconds{{{JOB}}})",
                    "{{instance}}",
                )
            ],
            unit="s",
            many=True,
        ),
    )
    return Board(
        "overview",
        "Overview",
        "Is runwire well, and if not, which part?",
        (
            Row(stats, height=3),
            Row(
                (
                    alerts_table(
                        "What fires",
                        "The alerts that fire now. An alert's name leads to its heading in the runbook.",
                        _FIRING,
                        runbook=runbook,
                    ),
                    _budget(thresholds, budget),
                    _burn(thresholds),
                ),
                widths=(10, 5, 9),
            ),
            Row(
                (
                    rates,
                    lines(
                        "Publish lag",
                        "From an event's commit to its being on the bus, with the limits of its alerts. A dead "
                        "publisher shows as no line at all, and what its successor catches up with at once may not "
                        "show either: see the backlog.",
                        percentiles("runwire_publish_lag_seconds"),
                        unit="s",
                        limit=lag,
                        log=True,
                    ),
                ),
            ),
            Row(
                (
                    lines(
                        "Backlog",
                        "Events in the log that are not published. How long they wait is on the dashboard Outbox.",
                        [Query(f"max by (job) (runwire_outbox_backlog_events{{{JOB}}})", "{{job}}")],
                        unit="short",
                    ),
                    coloured(
                        lines(
                            "Active runs by state",
                            "Pending that grows: no worker claims. Started that only grows: runs do not end.",
                            [
                                Query(
                                    f"sum by (state) (max by (job, state) (runwire_runs_active{{{JOB}}}))", "{{state}}"
                                )
                            ],
                            unit="short",
                            stacked=True,
                        ),
                        STATE_COLORS,
                    ),
                ),
            ),
            Row(canary, title="From outside", widths=(3, 8, 8, 5)),
        ),
    )


def _budget(thresholds: Thresholds, budget: Limit) -> Panel:
    said = "; ".join(
        f"{name}: {one.objective * 100:g} % {one.title()}" for name, one in thresholds.slos.objectives.items()
    )
    return bars(
        "Error budget left",
        f"The error budget that each objective has left within {thresholds.slos.window}. {said}.",
        Query(f"{BUDGET_LEFT}{{{JOB}}}", "{{slo}}"),
        unit="percentunit",
        steps=((None, RED), *budget.steps),
        highest=1,
    )


def _burn(thresholds: Thresholds) -> Panel:
    """In multiples of the rate that spends the budget in just the SLO's window, so that one scale fits all."""
    burns = thresholds.slos.burn_rates
    steps = sorted((min(pair.factor for pair in burn.pairs), LEVEL_COLORS[burn.severity]) for burn in burns.values())
    return lines(
        "Burn rate, last hour",
        f"How many times faster than allowed the budget goes. At 1 it lasts {thresholds.slos.window}; the lines are "
        "where, if it goes on, the alerts on burn rates begin.",
        [
            Query(f'{RATIO}1h{{{JOB}, slo="{name}"}} / {1 - one.objective:.6g}', name, color)
            for (name, one), color in zip(
                thresholds.slos.objectives.items(), (LIGHT, PURPLE, BLUE, GREEN, ORANGE), strict=True
            )
        ],
        unit="none",
        limit=Limit(tuple(steps), f"{thresholds.links.runbook}#alerts"),
        decimals=1,
    )
