"""Health is proven, or it is unknown: what a run without a known fault still lacks for a proof."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from runwire.db import Row
from runwire.model.run import RunState
from runwire.observe.findings import DiagnosisThresholds, Finding, NextStep, Stage
from runwire.thresholds import EXTERNAL_NODE_S

_WORKER: Final = "runwire serve --role worker"


def unproven(
    run: Row,
    node: Row | None,
    *,
    publishers: list[Row],
    walkers: Row,
    expected_s: float,
    limits: DiagnosisThresholds,
) -> Finding | None:
    """The first thing that keeps the run from being proven healthy; None when it is.

    Proven: each event is published, or has just been stored. A closed run needs no more. An open one has a publisher
    that says that it lives; it waits with a worker for it, or its owner lives and is in a node, within all limits.
    """
    gaps = _gaps(run, node, publishers=publishers, walkers=walkers, expected_s=expected_s, limits=limits)
    first = next(gaps, None)
    return None if first is None else (Stage.UNKNOWN, *first)


def _gaps(
    run: Row,
    node: Row | None,
    *,
    publishers: list[Row],
    walkers: Row,
    expected_s: float,
    limits: DiagnosisThresholds,
) -> Iterator[tuple[str, NextStep]]:
    state = RunState(run["state"])
    yield from _unpublished(run, limits=limits)
    if state.terminal:
        return
    yield from _without_publisher(publishers, limits=limits)
    if state is RunState.WAITING:
        yield from _waiting(run, walkers)
    elif state is RunState.PENDING:
        yield f"Nobody has begun the run yet. It was started {run['age_s']:.0f} s ago.", _again(run)
    else:
        yield from _started(run, node, walkers=walkers, expected_s=expected_s, limits=limits)


def _again(run: Row) -> NextStep:
    return NextStep("Look again in a few seconds.", f"runwire run diagnose {run['run_id']}")


def _unpublished(run: Row, *, limits: DiagnosisThresholds) -> Iterator[tuple[str, NextStep]]:
    next_seq = run["published_seq"] + 1
    waited_s = run["unpublished_age_s"]
    if waited_s is None:
        if next_seq <= run["last_seq"]:
            yield (
                f"Event {next_seq} is neither published nor in the log, which ends at {run['last_seq']}.",
                NextStep("See Sequence gap in the runbook: somebody deleted it, or a restore is incomplete.", None),
            )
    elif waited_s >= limits.unproven_s:
        yield f"Event {next_seq} was stored {waited_s:.0f} s ago, and is not published yet.", _again(run)


def _without_publisher(publishers: list[Row], *, limits: DiagnosisThresholds) -> Iterator[tuple[str, NextStep]]:
    step = NextStep("See that a publisher runs.", "runwire serve --role publisher")
    if not publishers:
        yield "All that is stored is published, and no publisher is there for the next event.", step
    elif (silent_s := publishers[0]["heartbeat_age_s"]) > limits.silent_s:
        yield f"All that is stored is published, but no publisher has said for {silent_s:.0f} s that it lives.", step


def _waiting(run: Row, walkers: Row) -> Iterator[tuple[str, NextStep]]:
    if run["signalled_s"] is not None:
        yield f"The signal came {run['signalled_s']:.0f} s ago. A worker takes the run within a second.", _again(run)
    left_s = run["timer_left_s"]
    if left_s is not None and left_s <= 0:
        yield f"The run's timer was due {-left_s:.0f} s ago. A worker takes the run within a second.", _again(run)
    if not run["external"] and not walkers["workers"]:
        yield (
            f"The run waits, as it should, but no worker with agent {run['agent']!r} is known to live.",
            NextStep("Start a worker that has the agent.", _WORKER),
        )


def _started(
    run: Row, node: Row | None, *, walkers: Row, expected_s: float, limits: DiagnosisThresholds
) -> Iterator[tuple[str, NextStep]]:
    owner, lease_left_s = run["lease_owner"], run["lease_left_s"]
    if walkers["owner_gone"]:
        ends_s = max(lease_left_s or 0, 0)
        yield (
            f"The session of worker {owner}, which has the run, is gone. The run's lease ends in {ends_s:.0f} s.",
            NextStep("Another worker takes the run over by then: see that one is running.", _WORKER),
        )
    if lease_left_s is None:
        yield "The run has started, and nobody has a lease of it.", NextStep("See that a worker is running.", _WORKER)
    quiet_s, most_s = run["last_age_s"] or 0.0, EXTERNAL_NODE_S if run["external"] else limits.unclaimed_s
    if node is None and quiet_s > most_s:
        yield (
            f"The run is in no node, and its last event is {quiet_s:.0f} s old, though {owner} has it.",
            NextStep("Look again. If nothing has moved, restart its owner: the run goes on elsewhere.", None),
        )
    if run["worked_s"] is not None and run["worked_s"] > expected_s:
        yield (
            f"The run has gone on for {run['worked_s']:.0f} s, and its agent expects {expected_s:.0f} s.",
            NextStep("See which node repeats or takes long. Cancel the run if it must end.", _tail(run)),
        )


def _tail(run: Row) -> str:
    return f"runwire run tail {run['run_id']}"
