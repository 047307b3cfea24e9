"""Are the drills worth something? Each must fail for want of each of its alerts, when that one's rule is left out.

`make drills-mutation`, or `ALERTS="SequenceGap TargetDown"` for some. A campaign leaves out as many rules as it can
without leaving out two of one drill: so each drill fails for one missing rule, and its other alerts must come. Exits
with 1 when the alert came, when its condition was not even true, or when anything else went wrong. Writes the rows of
what it left out into docs/drills.md when nothing was found.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree as ET

from drills.catalogue import DRILLS
from drills.drill import Drill
from drills.report import commit, write_rows
from drills.rules import ROOT, alert_names

CUT = "[truncated; full report in element text]"
"""The mark that pytest's report puts after a line that is too long for it."""
TEST = "tests/drills/test_drills.py::test_a_fault_is_told_of_and_so_is_its_end"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`missed_s`: seconds until the condition held, when the drill then failed for want of this alert and nothing else.

    Else None, and `instead` says what the drill said.
    """

    drill: Drill
    alert: str
    missed_s: float | None
    instead: str


def campaigns(alerts: Collection[str], drills: Collection[Drill] = DRILLS) -> list[list[str]]:
    """The alerts, as few campaigns as a greedy choice finds: in none are two that one drill has to do with."""
    apart: dict[str, set[str]] = {alert: set() for alert in alerts}
    for drill in drills:
        # Those it mutes, too: what mutes them and is left out leaves them heard of.
        for one, other in combinations({*drill.fires, *drill.mutes} & apart.keys(), 2):
            apart[one].add(other)
            apart[other].add(one)
    found: list[list[str]] = []
    for alert in sorted(alerts, key=lambda alert: len(apart[alert]), reverse=True):
        free = next((campaign for campaign in found if not apart[alert] & set(campaign)), None)
        if free is None:
            found.append(free := [])
        free.append(alert)
    return found


def verdicts(alerts: Collection[str]) -> Iterator[Verdict]:
    """Of every drill that waits for one of the alerts, with the rules of all of them left out."""
    drills = [drill for drill in DRILLS if set(drill.fires) & set(alerts)]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-n0", f"--junitxml={report}"]
        command += [f"--without-rule={alert}" for alert in alerts]
        command += [f"{TEST}[{drill.name}]" for drill in drills]
        subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
        reasons = {
            str(case.get("name")).partition("[")[2].rstrip("]"): str(failure.get("message"))
            for case in ET.parse(report).iter("testcase")  # noqa: S314  # pytest wrote it
            for failure in case.iter("failure")
        }
    for drill in drills:
        [alert] = set(drill.fires) & set(alerts)
        reason = reasons.get(drill.name, "nothing: it went well")
        yield Verdict(drill, alert, missed_s(alert, reason), reason)


def missed_s(alert: str, reason: str) -> float | None:
    """Seconds until the alert's condition held, when a drill failed with this and no further problem; else None."""
    told = reason.removeprefix("AssertionError: ").removesuffix(CUT)
    problems = [line for line in told.splitlines() if line.strip()]
    missed = rf"{alert} not firing, though its condition held after (\d+\.\d) s;"
    found = re.match(missed, problems[0]) if len(problems) == 1 else None
    return float(found[1]) if found else None


def _rows(found: Sequence[Verdict]) -> list[str]:
    at = commit()
    return [
        f"| `{one.alert}` | {one.drill.name} | {one.missed_s:.1f} | `{at}` |"
        for one in found
        if one.missed_s is not None
    ]


def main() -> int:
    known = [alert for alert in alert_names() if any(alert in drill.fires for drill in DRILLS)]
    asked = sys.argv[1:] or known
    if unknown := sorted(set(asked) - set(known)):
        sys.stderr.write(f"no drill waits for {', '.join(unknown)}\n")
        return 2
    began = time.monotonic()
    found: list[Verdict] = []
    for together in campaigns(asked):
        sys.stdout.write(f"-- {time.monotonic() - began:.0f} s, without {', '.join(together)}\n")
        for one in verdicts(together):
            said = (
                "fails without it"
                if one.missed_s is not None
                else f"DOES NOT FAIL FOR IT ALONE, but says\n{one.instead}"
            )
            sys.stdout.write(f"{one.alert:24} {one.drill.name:36} {said}\n")
            sys.stdout.flush()
            found.append(one)
    took_s = time.monotonic() - began
    sys.stdout.write(f"-- {took_s:.0f} s\n")
    if any(one.missed_s is None for one in found):
        return 1
    write_rows("mutation", _rows(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
