"""`make bench`: runwire beside what else this machine can do, fsync on, telemetry on, medians of several rounds."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console

from benchmarks.report import Report, machine, markdown, medians
from benchmarks.scenarios import SCENARIOS
from benchmarks.stand import Stand
from runwire.cli.serve import spare_garbage_collector
from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres
from runwire.telemetry.logs import configure_logging


async def main() -> None:
    names = [scenario.NAME for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--seconds", type=float, default=2, help="per measurement")
    parser.add_argument("--rounds", type=int, default=3, help="medians are of this many")
    parser.add_argument("--json", type=Path, help="write every figure of every round here")
    parser.add_argument("--smoke", action="store_true", help="only whether a scenario works: small, without peers")
    parser.add_argument("--dsn", help="of a PostgreSQL to measure on, on this machine, instead of an embedded one")
    options = parser.parse_args()
    configure_logging("warning", stream=sys.stderr)
    spare_garbage_collector()  # as `serve` does
    console = Console()
    report = Report({**machine(), "seconds": options.seconds})
    async with _server(options.dsn) as dsn:
        stand = Stand(dsn, seconds=options.seconds, smoke=options.smoke)
        for scenario in SCENARIOS:
            if scenario.NAME not in options.only:
                continue
            for n in range(options.rounds):
                # A line, nothing that moves: a thread that draws would take its turns with what is measured.
                print(f"{scenario.NAME}: round {n + 1} of {options.rounds} ...", file=sys.stderr, flush=True)
                report.add(scenario.NAME, scenario.TITLE, await scenario.measure(stand))
            rows = medians(report.rounds[scenario.NAME])
            if compare := getattr(scenario, "compare", None):
                compare(rows)
            report.medians[scenario.NAME] = rows
            console.print(markdown(scenario.TITLE, rows), markup=False, soft_wrap=True)
            if (notes := getattr(scenario, "notes", None)) and not options.smoke:
                report.notes[scenario.NAME] = notes()
                console.print("\n".join(f"- {note}" for note in notes()), markup=False, soft_wrap=True)
            if options.json:
                options.json.write_text(json.dumps(report.as_json(), indent=1))


@asynccontextmanager
async def _server(dsn: str | None) -> AsyncIterator[str]:
    """The DSN of the server to measure on: the one given, or a new one."""
    if dsn is not None:
        yield dsn
        return
    with tempfile.TemporaryDirectory(prefix="runwire-bench-") as folder:
        # Larger than the embedded default, as a server of its own would have it; 10 million events want more of both.
        settings = {"shared_buffers": "1GB", "max_wal_size": "8GB"}
        async with EmbeddedPostgres(EmbeddedOptions(Path(folder) / "postgres", settings=settings)) as postgres:
            yield postgres.dsn


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(main())
    except ImportError:
        asyncio.run(main())
