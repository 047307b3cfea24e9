"""docs/drills.md: what was broken, when it was noticed, when somebody was told, and when it was over.

A row names the commit that it was measured on. A report about some drills leaves the rows of the others as they are.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from drills.baseline import HEALTHY_S, WITHOUT_DATA, Baseline
from drills.catalogue import DRILLS, WITHOUT_DRILL
from drills.drill import Course, Drill, Outcome
from drills.rules import BURN_SCALE, ROOT, SCALE
from runwire.ops.tables import with_table

NOT_YET: Final = "not measured"
PAGE: Final = ROOT / "docs" / "drills.md"
HEADERS: Final[Mapping[str, tuple[str, str]]] = {
    "faults": (
        "| alert | drill | fault | bad | firing | step | resolved | recovery | muted meanwhile | commit |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ),
    "mutation": ("| rule left out | drill that fails | held | commit |", "|---|---|---|---|"),
}


def write_report(outcomes: Sequence[Outcome], baseline: Baseline | None) -> None:
    """Puts the figures of a campaign in which everything went well into the page. Without a baseline, as of some drills
    only, what was seen while nothing was wrong stays.
    """
    at = commit()
    if baseline is not None:
        write_section(
            "setting",
            f"Commit `{at}`. Time scale {SCALE:g}: a minute of the rules is {60 / SCALE:g} s here. Burn rates, whose"
            f" windows are days:\n{BURN_SCALE:g}. Scrapes and evaluations every 250 ms. Something waited for a CPU in"
            f" {baseline.cpu_waits:.0%} of the time.\n",
        )
        write_section(
            "healthy",
            f"Under load, for {baseline.quiet_s:.0f} s (of the rules: {HEALTHY_S * SCALE / 60:g} minutes): no alert"
            f" but `Watchdog`. {baseline.panels} panels of the\ndashboards were asked; all had data but those"
            " [below](#without-data).\n",
        )
    write_rows("faults", [_row(outcome, course, at) for outcome in outcomes for course in outcome.courses])
    write_section("without-drill", "".join(f"- `{alert}`: {why}\n" for alert, why in WITHOUT_DRILL.items()))
    write_section("without-data", "".join(f"- {panel}: {why}\n" for panel, why in WITHOUT_DATA.items()))


def write_rows(section: str, measured: Sequence[str]) -> None:
    """Puts these rows into a table of the page, each in the place of the one about the same alert and drill, and all of
    them in the order of the catalogue. Rows about drills that are no more go; new drills get a row without figures.
    """
    new = {(row.alert, row.drill): row.line for row in map(_parsed, measured)}
    old = {(row.alert, row.drill): row.line for row in rows_of(section)}
    lines = [
        new.get((alert, drill.name)) or old.get((alert, drill.name)) or _unmeasured(section, alert, drill)
        for drill in DRILLS
        for alert in drill.fires
    ]
    write_section(section, "".join(f"{line}\n" for line in (*HEADERS[section], *lines)))


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table of the page: `alert` with `drill`, as the line's first two cells have them."""

    alert: str
    drill: str
    line: str


def rows_of(section: str) -> list[Row]:
    """The rows that the page has now."""
    text = PAGE.read_text(encoding="utf-8").partition(f"<!-- {section}:begin -->")[2]
    lines = text.partition(f"<!-- {section}:end -->")[0].splitlines()
    return [_parsed(line) for line in lines if line.startswith("| `")]


def wanted_rows() -> list[tuple[str, str]]:
    """(alert, drill) of each row that both tables have, in their order."""
    return [(alert, drill.name) for drill in DRILLS for alert in drill.fires]


def _parsed(line: str) -> Row:
    alert, drill = (cell.strip() for cell in line.split(" | ")[:2])
    return Row(alert.removeprefix("| `").partition("`")[0], drill, line)


def write_section(name: str, text: str) -> None:
    """Replaces what is between the markers of that name."""
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), name, text), encoding="utf-8")


def commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def _unmeasured(section: str, alert: str, drill: Drill) -> str:
    if section == "mutation":
        return f"| `{alert}` | {drill.name} |  | {NOT_YET} |"
    return f"| `{alert}`{_which(drill)} | {drill.name} | {drill.what} |  |  |  |  | {_recovery(drill)} |  | {NOT_YET} |"


def _which(drill: Drill) -> str:
    return "".join(f" ({value})" for value in drill.labels.values())


def _recovery(drill: Drill) -> str:
    return f"[{drill.recovery.rstrip('.')}](runbooks/run-diagnostics.md#{drill.runbook})"


def _row(outcome: Outcome, course: Course, at: str) -> str:
    drill = outcome.drill
    bad = "" if course.bad_s is None else f"{max(course.bad_s, 0.0):.1f}"
    firing = f"{course.firing_s:.1f}" + (" (muted by a higher one)" if course.overtaken else "")
    muted = ", ".join(f"`{name}`" for name in outcome.muted)
    resolved = "busy machine" if course.resolved_s is None else f"+{course.resolved_s:.1f}"
    times = f"{bad} | {firing} | {course.step_s:.1f} | {resolved}"
    head = f"| `{course.alert}`{_which(drill)} | {drill.name} | {drill.what}"
    return f"{head} | {times} | {_recovery(drill)} | {muted} | `{at}` |"
