"""docs/drills.md: what was broken, when it was noticed, when somebody was told, and when it was over."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Final

from drills.baseline import HEALTHY_S, WITHOUT_DATA, Baseline
from drills.catalogue import WITHOUT_DRILL
from drills.drill import Course, Outcome
from drills.rules import BURN_SCALE, ROOT, SCALE

PAGE: Final = ROOT / "docs" / "drills.md"

HEAD: Final = """\
# Drills

Written by `make drills DRILLS_REPORT=1`; not edited by hand.

Each alert is proven by breaking the real service: real processes, a real Prometheus and Alertmanager, the rules as they
are shipped but for their time scale, and a webhook that is told. Then the step of the
[runbook](runbooks/run-diagnostics.md) is taken, and the webhook must hear that it is over.

Commit `{commit}`. Time scale {scale:g}: a minute of the rules is {minute:g} s here. Burn rates, whose windows are days:
{burn:g}. Scrapes and evaluations every 250 ms.

All times are seconds. *Bad*: the first evaluation that found the condition true, after the fault. *Firing*: the
webhook was told, after the fault; the alert's own waiting time is in it, and Alertmanager's, both scaled. *Resolved*:
it was told of the end, after the recovery step. What is not scaled is as slow as in production: reconnects count for a
minute, the safety sweep runs every second.

## Healthy

Under load for {healthy:g} s, five minutes of the rules: no alert but `Watchdog`. {panels} panels of the dashboards were
asked; all had data but those [below](#without-data).

## Faults

"""


def write_report(outcomes: Sequence[Outcome], baseline: Baseline) -> None:
    text = HEAD.format(
        commit=_commit(),
        scale=SCALE,
        minute=60 / SCALE,
        burn=BURN_SCALE,
        healthy=HEALTHY_S,
        panels=baseline.panels,
    )
    lines = [
        "| alert | fault | bad | firing | recovery | resolved | muted meanwhile |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(outcome, course) for outcome in outcomes for course in outcome.courses]
    lines += ["", "## Without a drill", ""]
    lines += [f"- `{alert}`: {reason}" for alert, reason in WITHOUT_DRILL.items()]
    lines += ["", "## Without data", ""]
    lines += [f"- {panel}: {reason}" for panel, reason in WITHOUT_DATA.items()]
    PAGE.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


def _row(outcome: Outcome, course: Course) -> str:
    drill = outcome.drill
    invariant = drill.labels.get("invariant")
    alert = f"`{course.alert}`" + (f" ({invariant})" if invariant else "")
    recovery = f"[{drill.recovery.rstrip('.')}](runbooks/run-diagnostics.md#{drill.runbook})"
    muted = ", ".join(f"`{name}`" for name in outcome.muted)
    bad = "" if course.bad_s is None else f"{course.bad_s:.1f}"
    return (
        f"| {alert} | {drill.what} | {bad} | {course.firing_s:.1f} | {recovery} | {course.resolved_s:.1f} | {muted} |"
    )


def _commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
