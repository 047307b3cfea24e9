"""Alerts on the work of agents: runs that nobody takes, do not end, fail, or harm their workers."""

from __future__ import annotations

from collections.abc import Iterator

from runwire.ops.rules import Alert, Group, above, limit
from runwire.ops.thresholds import Severity, Thresholds

WARNING, PAGE = Severity.WARNING, Severity.PAGE


def work_alerts(thresholds: Thresholds) -> Group:
    return Group("runwire-work", tuple(_work(thresholds)))


def _work(thresholds: Thresholds) -> Iterator[Alert]:
    yield Alert(
        "RunsUnclaimed",
        above("max by (job, agent) (runwire_run_oldest_unclaimed_seconds)", thresholds, "runs_unclaimed", PAGE),
        PAGE,
        "Runs wait for a worker",
        "No worker of {{ $labels.job }} has taken the oldest run of agent {{ $labels.agent }} for"
        " {{ $value | humanizeDuration }}"
        f" (limit {limit(thresholds, 'runs_unclaimed', PAGE)}).",
    )
    yield _failing(thresholds)
    yield from _stalled(thresholds)
    window = thresholds.duration(thresholds.window("blocked_loop", WARNING))
    blocked = f"sum by (job, node) (increase(runwire_event_loop_blocked_seconds_total[{window}]))"
    yield Alert(
        "EventLoopBlocked",
        above(blocked, thresholds, "blocked_loop", WARNING),
        WARNING,
        "A node makes the event loop of its worker stand",
        "Node {{ $labels.node }} made event loops of {{ $labels.job }} stand for {{ $value | humanizeDuration }}"
        f" within {window} (limit {limit(thresholds, 'blocked_loop', WARNING)}).",
    )
    window = thresholds.duration(thresholds.window("repeated_losses", WARNING))
    losses = f"sum by (job) (increase(runwire_run_losses_repeated_total[{window}]))"
    yield Alert(
        "RunsKillWorkers",
        above(losses, thresholds, "repeated_losses", WARNING),
        WARNING,
        "Workers die with the same run again",
        "{{ $value | humanize }} times within "
        + window
        + " a worker of {{ $labels.job }} died with a run that had lost"
        f" one before and finished no node since (limit {limit(thresholds, 'repeated_losses', WARNING)}).",
    )


def _stalled(thresholds: Thresholds) -> Iterator[Alert]:
    """One alert of several levels for each agent, so that somebody hears of a second run, and then of many, while the
    first still goes on. A level stays while those above it fire.
    """
    for value in (thresholds.value("run_stalled", PAGE), *thresholds.named("run_stalled").again_above):
        yield Alert(
            "RunStalled",
            f"max by (job, agent) (runwire_runs_overdue) > {value:.10g}",
            PAGE,
            "Runs have started and do not end",
            "{{ $value | humanize }} runs of agent {{ $labels.agent }} of {{ $labels.job }} go on for longer than their"
            " agent expects.",
            labels=(("runs", f"{value + 1:.10g}+"),),
        )


def _failing(thresholds: Thresholds) -> Alert:
    window = thresholds.duration(thresholds.window("runs_failing", PAGE))
    fewest = thresholds.at_least("runs_failing", PAGE) or 0

    def ended(where: str) -> str:
        return f"sum by (job, agent) (increase(runwire_runs_finished_total{where}[{window}]))"

    share = ended('{outcome="failed"}') + f"\n/\n({ended('')} >= {fewest:.10g})"
    return Alert(
        "RunsFailing",
        above(share, thresholds, "runs_failing", PAGE),
        PAGE,
        "Most runs of an agent fail",
        "{{ $value | humanizePercentage }} of the runs of agent {{ $labels.agent }} that ended within"
        f" {window} failed in {{{{ $labels.job }}}} (limit {limit(thresholds, 'runs_failing', PAGE)}).",
    )
