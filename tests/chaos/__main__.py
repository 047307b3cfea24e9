"""The long form: `make chaos MINUTES=10`. Writes what it did into docs/reliability.md."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from chaos.campaign import Report, Scale, campaign
from chaos.content import Rates
from chaos.report import arguments, commit, put, tell_from

BEGIN: Final = "<!-- written by make chaos -->"


def main() -> None:
    asked = arguments("make chaos", about=__doc__, minutes=10, at_once=24)
    scale = Scale(
        seconds=asked.minutes * 60,
        at_once=asked.at_once,
        events=1000,
        batch=50,
        pause_s=0.3,
        golden_every_s=1.0,
        rates=Rates(authors=4, speakers=2, patients=4, words=40),
    )
    with tempfile.TemporaryDirectory(prefix="runwire-chaos-logs-") as folder:
        report = asyncio.run(campaign(scale, folder=Path(folder), seed=asked.seed, tell=tell_from(time.monotonic())))
    text = "\n".join(_told(report, seed=asked.seed, minutes=asked.minutes))
    print(text)  # noqa: T201  # the result
    if asked.report:
        put(text, begin=BEGIN)


def _told(report: Report, *, seed: int, minutes: float) -> Iterator[str]:
    tally, load, probes = report.load.tally, report.load, report.probes
    content, readers = report.content.counts, report.content.readers
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
    yield f"| stream tickets given | {load.tickets:,} |"
    yield "| events lost, duplicated, out of order | 0, 0, 0 |"
    yield "| acknowledged appends lost | 0 |"
    yield f"| parts, attempts at them | {content['parts']:,}, {content['attempts at parts']:,} |"
    yield f"| bytes of parts that clients showed, of {len(readers):,} readers | {content['bytes shown']:,} |"
    yield "| bytes lost, duplicated, out of order | 0, 0, 0 |"
    yield f"| artifacts; references that dangle, orphans after collection | {content['artifacts']:,}; 0, 0 |"
    yield f"| signals with data; accepted and lost, heard twice | {content['signals heard']:,}; 0, 0 |"
    yield f"| timers; lost, fired twice, fired late without a fault | {content['timers fired']:,}; 0, 0, 0 |"
    yield f"| runs on streams of a session, each whole | {content['runs on streams of a session']:,} |"
    yield f"| attempts to cross: refused, without an answer | {probes.refused:,}, {probes.unavailable:,} |"
    yield f"| lists looked at, runs on them | {probes.lists:,}, {probes.runs_listed:,} |"
    yield f"| reads and calls across tenants | {len(probes.crossed)} |"
    yield ""
    yield "| fault | times |"
    yield "|---|---|"
    for name, times in sorted(report.faults.items()):
        yield f"| {name} | {times} |"
    yield ""
    yield "| who tried to cross | times |"
    yield "|---|---|"
    for who, times in sorted(probes.tried.items()):
        yield f"| {who} | {times:,} |"


if __name__ == "__main__":
    main()
