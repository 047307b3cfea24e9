"""Are the drills worth something? Each must fail for want of an alert whose rule is left out.

`make drills-mutation`, or `ALERTS="SequenceGap TargetDown"` for some. All are left out at once: a drill waits for each
of its alerts by itself, and says of each that it did not come. Exits with 1 when one came, or when its condition was
not even true; writes the result into docs/drills.md when all rules were left out and nothing was found.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from drills.catalogue import DRILLS
from drills.drill import GRACE_S, Drill
from drills.report import commit, write_section
from drills.rules import ROOT, alert_names

TEST = "tests/drills/test_drills.py::test_a_fault_is_told_of_and_so_is_its_end"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`missed_s`: seconds until the condition held, when the drill then missed the alert; else None."""

    drill: Drill
    alert: str
    missed_s: float | None


def verdicts(alerts: Collection[str]) -> list[Verdict]:
    """Of every drill that waits for one of the alerts, with the rules of all of them left out."""
    drills = [drill for drill in DRILLS if set(drill.fires) & set(alerts)]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-n0", f"--junitxml={report}"]
        command += [f"--without-rule={alert}" for alert in alerts]
        command += [f"{TEST}[{drill.name}]" for drill in drills]
        subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
        reasons = {
            str(case.get("name")).partition("[")[2].rstrip("]"): str(failure.text)
            for case in ET.parse(report).iter("testcase")  # noqa: S314  # pytest wrote it
            for failure in case.iter("failure")
        }
    return [
        Verdict(drill, alert, _missed_s(alert, reasons.get(drill.name, "")))
        for drill in drills
        for alert in drill.fires
        if alert in alerts
    ]


def _missed_s(alert: str, reason: str) -> float | None:
    found = re.search(rf"\b{alert} not firing, though its condition held after (\d+\.\d) s", reason)
    return float(found[1]) if found else None


def _table(found: Sequence[Verdict], *, took_s: float) -> str:
    about = (
        f"Commit `{commit()}`, {took_s:.0f} s. *Held*: seconds after the drill began until the condition of the rule"
        f" had held for as long\nas the rule asks for; nobody was told within {GRACE_S:g} s after that, and the drill"
        " failed."
    )
    lines = ["| rule left out | drill that fails | held |", "|---|---|---|"]
    lines += [f"| `{one.alert}` | {one.drill.name} | {one.missed_s:.1f} |" for one in found if one.missed_s is not None]
    return f"{about}\n\n" + "\n".join(lines) + "\n"


def main() -> int:
    known = [alert for alert in alert_names() if any(alert in drill.fires for drill in DRILLS)]
    asked = sys.argv[1:] or known
    if unknown := sorted(set(asked) - set(known)):
        sys.stderr.write(f"no drill waits for {', '.join(unknown)}\n")
        return 2
    began = time.monotonic()
    found = verdicts(asked)
    took_s = time.monotonic() - began
    for one in found:
        said = "WENT WELL WITHOUT IT, or its condition never held" if one.missed_s is None else "fails without it"
        sys.stdout.write(f"{one.alert:24} {one.drill.name:36} {said}\n")
    sys.stdout.write(f"-- {took_s:.0f} s\n")
    if any(one.missed_s is None for one in found):
        return 1
    if set(asked) == set(known):
        write_section("mutation", _table(found, took_s=took_s))
    return 0


if __name__ == "__main__":
    sys.exit(main())
