"""Runs and nodes: what agents do, how long it takes, and how it ends."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Panel

from runwire.ops.dashboards.board import Board, Row
from runwire.ops.dashboards.content import content_rows
from runwire.ops.dashboards.overview import STATE_COLORS
from runwire.ops.dashboards.panels import (
    BLUE,
    GREEN,
    GREY,
    INSTANCE,
    JOB,
    LIGHT,
    ORANGE,
    RED,
    YELLOW,
    Limit,
    Query,
    coloured,
    lines,
    means,
    number,
    percentiles,
    rate,
)
from runwire.ops.thresholds import Thresholds

_FAILED = 'outcome="failed"'
_OUTCOMES = {"finished": GREEN, "failed": RED, "timeout": ORANGE, "cancelled": GREY}


def board(thresholds: Thresholds) -> Board:
    runbook = thresholds.links.runbook
    stalled = Limit.above(thresholds, "run_stalled", runbook=f"{runbook}#run-stalled")
    failed = f'sum(increase(runwire_runs_finished_total{{{INSTANCE}, outcome="failed"}}[$__range]))'
    finished = f"sum(increase(runwire_runs_finished_total{{{INSTANCE}}}[$__range]))"
    stats = (
        number(
            "Oldest started run",
            "Since its RunStarted, without the time it waited for signals. Waiting runs are not counted.",
            f'max(runwire_run_oldest_age_seconds{{{JOB}, state="started"}})',
            unit="dthms",
            base=BLUE,
        ),
        number(
            "Overdue",
            "Started runs that go on for longer than their agent expects.",
            f"sum(max by (job, agent) (runwire_runs_overdue{{{JOB}}}))",
            unit="short",
            limit=stalled,
        ),
        _active("Pending", "pending", "Runs that no worker has claimed yet.", YELLOW),
        _active("Started", "started", "Runs that are under way.", BLUE),
        _active("Waiting", "waiting", "Runs that wait for a signal. Not a fault.", STATE_COLORS["waiting"]),
        number(
            "Runs started",
            "Runs started per minute.",
            f"60 * {rate('runwire_runs_started_total')}",
            unit="suffix:/min",
            base=BLUE,
            decimals=0,
        ),
        number(
            "Runs that failed",
            "Share of the runs that ended within the time shown.",
            f"{failed} / ({finished} > 0)",
            unit="percentunit",
            limit=Limit.of(thresholds, "failed_runs", runbook=f"{runbook}#failure-patterns"),
            decimals=1,
        ),
    )
    return Board(
        "runs",
        "Runs and nodes",
        "The work of agents: its duration and its outcome.",
        (
            Row(stats, height=3, widths=(4, 3, 3, 3, 3, 4, 4)),
            Row(
                (
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
                    coloured(
                        lines(
                            "Oldest run by state",
                            "Waiting runs are left out: they may wait for days.",
                            [
                                Query(
                                    f"max by (state) (runwire_run_oldest_age_seconds{{{JOB}, "
                                    'state=~"pending|started"})',
                                    "{{state}}",
                                )
                            ],
                            unit="dthms",
                        ),
                        STATE_COLORS,
                    ),
                    lines(
                        "Overdue runs by agent",
                        "Started runs that go on for longer than their agent expects, with the limit of their alert.",
                        [Query(f"max by (agent) (runwire_runs_overdue{{{JOB}}})", "{{agent}}")],
                        unit="short",
                        many=True,
                        decimals=0,
                        limit=stalled,
                    ),
                ),
                title="Runs",
            ),
            Row(
                (
                    lines(
                        "Oldest run that nobody claims",
                        "Since it could be claimed, by agent; other: agents that the observer does not know.",
                        [Query(f"max by (agent) (runwire_run_oldest_unclaimed_seconds{{{JOB}}})", "{{agent}}")],
                        unit="s",
                        many=True,
                        limit=Limit.of(thresholds, "runs_unclaimed", runbook=f"{runbook}#nobody-claims"),
                    ),
                    lines(
                        "Share of runs that fail, by agent",
                        "Of those that ended. No line: none has ended.",
                        [
                            Query(
                                f"{rate('runwire_runs_finished_total', by='agent', where=_FAILED)}"
                                f" / ({rate('runwire_runs_finished_total', by='agent')} > 0)",
                                "{{agent}}",
                            )
                        ],
                        unit="percentunit",
                        many=True,
                        limit=Limit.of(thresholds, "runs_failing", runbook=f"{runbook}#runs-fail"),
                    ),
                ),
            ),
            Row(
                (
                    lines(
                        "Runs started by agent",
                        "Per second. External orchestrators count as external.",
                        [Query(rate("runwire_runs_started_total", by="agent"), "{{agent}}")],
                        unit="suffix:/s",
                        many=True,
                        stacked=True,
                    ),
                    coloured(
                        lines(
                            "Runs ended by outcome",
                            "Per second.",
                            [Query(rate("runwire_runs_finished_total", by="outcome"), "{{outcome}}")],
                            unit="suffix:/s",
                            stacked=True,
                        ),
                        _OUTCOMES,
                    ),
                    lines(
                        "Run duration",
                        "From the start call to RunFinished, without the time the run waited for signals.",
                        percentiles("runwire_run_duration_seconds"),
                        unit="s",
                        limit=stalled,
                        log=True,
                    ),
                ),
            ),
            Row(
                (
                    lines(
                        "Mean node duration",
                        "One try of a node. Its timeout is 10 s unless the node says otherwise.",
                        [Query(means("runwire_node_duration_seconds", by="node"), "{{node}}")],
                        unit="s",
                        many=True,
                    ),
                    coloured(
                        lines(
                            "Tries of nodes by outcome",
                            "Per second. Failed tries may be tried again; timeouts say that what a node calls is slow.",
                            [Query(rate("runwire_node_duration_seconds_count", by="outcome"), "{{outcome}}")],
                            unit="ops",
                            stacked=True,
                        ),
                        _OUTCOMES,
                    ),
                    lines(
                        "Tries that did not finish, by node",
                        "Per second: failed, timed out or cancelled. One node alone: look at what it calls.",
                        [
                            Query(
                                rate("runwire_node_duration_seconds_count", by="node", where='outcome!="finished"'),
                                "{{node}}",
                            )
                        ],
                        unit="ops",
                        many=True,
                        stacked=True,
                    ),
                ),
                title="Nodes",
                height=9,
            ),
            Row(
                (
                    lines(
                        "Time to first node",
                        "From accepting a run to its first node: how long runs wait for a worker.",
                        percentiles("runwire_time_to_first_node_seconds"),
                        unit="s",
                        log=True,
                    ),
                    lines(
                        "Events per run",
                        "Appended events for each run started; a loop that does not end shows here.",
                        [
                            Query(
                                f"{rate('runwire_events_appended_total')} / ({rate('runwire_runs_started_total')} > 0)",
                                "events per run",
                                LIGHT,
                            )
                        ],
                        unit="short",
                    ),
                    lines(
                        "Workers lost",
                        "Workers found dead, and runs that lost one again before they finished a node.",
                        [
                            Query(rate("runwire_workers_lost_total"), "workers"),
                            Query(rate("runwire_run_losses_repeated_total"), "runs, again"),
                        ],
                        unit="suffix:/s",
                        rare=True,
                    ),
                ),
            ),
            *content_rows(thresholds),
        ),
    )


def _active(title: str, state: str, about: str, color: str) -> Panel:
    return number(
        title, about, f'sum(max by (job) (runwire_runs_active{{{JOB}, state="{state}"}}))', unit="short", base=color
    )
