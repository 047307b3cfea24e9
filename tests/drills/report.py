"""docs/drills.md: what was broken, when it was noticed, when somebody was told, and when it was over."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Final

from drills.baseline import HEALTHY_S, WITHOUT_DATA, Baseline
from drills.catalogue import WITHOUT_DRILL
from drills.drill import Course, Outcome
from drills.rules import BURN_SCALE, ROOT, SCALE
from runwire.ops.tables import with_table

PAGE: Final = ROOT / "docs" / "drills.md"


def write_report(outcomes: Sequence[Outcome], baseline: Baseline) -> None:
    """Puts the figures of a campaign in which everything went well into the page."""
    write_section(
        "setting",
        f"Commit `{commit()}`. Time scale {SCALE:g}: a minute of the rules is {60 / SCALE:g} s here. Burn rates, whose"
        f" windows are days:\n{BURN_SCALE:g}. Scrapes and evaluations every 250 ms. Something waited for a CPU in"
        f" {baseline.cpu_waits:.0%} of the time.\n",
    )
    write_section(
        "healthy",
        f"Under load, for {baseline.quiet_s:.0f} s (of the rules: {HEALTHY_S * SCALE / 60:g} minutes): no alert"
        f" but `Watchdog`. {baseline.panels} panels of the\ndashboards were asked; all had data but those"
        " [below](#without-data).\n",
    )
    lines = [
        "| alert | fault | bad | firing | step | resolved | recovery | muted meanwhile |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(outcome, course) for outcome in outcomes for course in outcome.courses),
    ]
    write_section("faults", "\n".join(lines) + "\n")
    write_section("without-drill", "".join(f"- `{alert}`: {why}\n" for alert, why in WITHOUT_DRILL.items()))
    write_section("without-data", "".join(f"- {panel}: {why}\n" for panel, why in WITHOUT_DATA.items()))


def write_section(name: str, text: str) -> None:
    """Replaces what is between the markers of that name."""
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), name, text), encoding="utf-8")


def commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def _row(outcome: Outcome, course: Course) -> str:
    drill = outcome.drill
    which = "".join(f" ({value})" for value in drill.labels.values())
    bad = "" if course.bad_s is None else f"{max(course.bad_s, 0.0):.1f}"
    firing = f"{course.firing_s:.1f}" + (" (muted by a higher one)" if course.overtaken else "")
    recovery = f"[{drill.recovery.rstrip('.')}](runbooks/run-diagnostics.md#{drill.runbook})"
    muted = ", ".join(f"`{name}`" for name in outcome.muted)
    resolved = "busy machine" if course.resolved_s is None else f"+{course.resolved_s:.1f}"
    times = f"{bad} | {firing} | {course.step_s:.1f} | {resolved}"
    return f"| `{course.alert}`{which} | {drill.what} | {times} | {recovery} | {muted} |"
