"""Are the drills worth something? Each must fail when the rule of an alert it waits for is left out.

`make drills-mutation`, or `ALERTS="SequenceGap TargetDown"` for some. Rules of several drills are left out at once,
where none of these drills waits for another's alert. Exits with 1 when a drill went well all the same.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from drills.catalogue import DRILLS
from drills.drill import Drill
from drills.rules import ROOT, alert_names

TEST = "tests/drills/test_drills.py::test_a_fault_is_told_of_and_so_is_its_end"


def rounds(alerts: Sequence[str]) -> Iterator[dict[str, set[str]]]:
    """Alerts by drill, to be left out together: every pair of a drill and one of its alerts comes once."""
    left = [(drill, alert) for drill in DRILLS for alert in drill.fires if alert in alerts]
    while left:
        chosen: list[tuple[Drill, str]] = []
        for drill, alert in left:
            if all(
                drill is other or alert == missing or not ({alert} & _awaited(other) or {missing} & _awaited(drill))
                for other, missing in chosen
            ):
                chosen.append((drill, alert))
        left = [pair for pair in left if pair not in chosen]
        yield {drill.name: {alert for other, alert in chosen if other is drill} for drill, _ in chosen}


def survivors(missing: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Pairs of a drill and an alert that it did not miss."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-n0", f"--junitxml={report}"]
        command += [f"--without-rule={alert}" for alert in sorted(set().union(*missing.values()))]
        command += [f"{TEST}[{name}]" for name in missing]
        subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
        reasons = {
            str(case.get("name")).partition("[")[2].rstrip("]"): str(failure.text)
            for case in ET.parse(report).iter("testcase")  # noqa: S314  # pytest wrote it
            for failure in case.iter("failure")
        }
    return {
        (name, alert)
        for name, alerts in missing.items()
        for alert in alerts
        if f"{alert} not firing" not in reasons.get(name, "")
    }


def main() -> int:
    known = [alert for alert in alert_names() if any(alert in drill.fires for drill in DRILLS)]
    asked = sys.argv[1:] or known
    if unknown := sorted(set(asked) - set(known)):
        sys.stderr.write(f"no drill waits for {', '.join(unknown)}\n")
        return 2
    useless = 0
    for missing in rounds(asked):
        began = time.monotonic()
        survived = survivors(missing)
        useless += len(survived)
        for name, alert in ((name, alert) for name, alerts in missing.items() for alert in sorted(alerts)):
            verdict = "WENT WELL WITHOUT IT" if (name, alert) in survived else "fails without it"
            sys.stdout.write(f"{alert:24} {name:36} {verdict}\n")
        sys.stdout.write(f"-- {time.monotonic() - began:.0f} s\n")
        sys.stdout.flush()
    return 1 if useless else 0


def _awaited(drill: Drill) -> set[str]:
    return {*drill.fires, *drill.mutes}


if __name__ == "__main__":
    sys.exit(main())
