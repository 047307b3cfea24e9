"""`make bench-telemetry`: CPU per event through append, publish and delivery, with telemetry off, by part and on."""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.databases import new_database
from benchmarks.telemetry import sinks
from benchmarks.telemetry.parts import VARIANTS, Telemetry
from benchmarks.telemetry.work import Pipeline, pipeline
from runwire.cli.serve import spare_garbage_collector
from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres
from runwire.telemetry.logs import configure_logging

BUDGET: Final = 0.10
DRAWS: Final = 2000

WORKLOADS: Final = ("golden", "appends")
Figures = dict[str, dict[str, list[float]]]


async def measure(
    postgres: EmbeddedPostgres, variants: Sequence[str], *, rounds: int, size: float, console: Console
) -> Figures:
    """CPU per event in us, by workload and variant, one figure a round; the variants of a round in an order by chance.

    Each variant has stages and a database of its own, up all the time; a turn of it takes half a second, so
    that what else happens on the machine happens to all of them. Spans go out at its end, once instead of every second.
    """
    configure_logging("critical")
    figures: Figures = {workload: {variant: [] for variant in variants} for workload in WORKLOADS}
    async with AsyncExitStack() as up:
        clients, collector = up.enter_context(sinks.clients()), up.enter_context(sinks.collector())
        lines = up.enter_context(tempfile.TemporaryFile("w"))
        made: dict[str, tuple[Telemetry, Pipeline]] = {}
        for variant in variants:
            telemetry = Telemetry(VARIANTS[variant], lines=lines, collector=collector)
            up.push_async_callback(telemetry.aclose)
            dsn = await new_database(postgres.dsn, variant)
            stages = await up.enter_async_context(pipeline(variant.replace(" ", "-"), dsn, telemetry, clients=clients))
            made[variant] = telemetry, stages
        spare_garbage_collector()  # as `serve` does
        for n in range(-1, rounds):
            for workload in WORKLOADS:
                for variant in random.sample(variants, len(variants)):
                    telemetry, stages = made[variant]
                    gc.collect()
                    with telemetry.switched():
                        cpu = await (
                            stages.golden_runs(round(540 * size))
                            if workload == "golden"
                            else stages.appends(round(24_000 * size))
                        )
                    if n >= 0:  # the first round warms caches and plans
                        figures[workload][variant].append(cpu.us_per_event)
            if n >= 0 and n % 5 == 4:
                console.print(f"round {n + 1} of {rounds}", style="dim")
    return figures


def shares(figures: Mapping[str, list[float]]) -> dict[str, float]:
    """The cost of each variant beyond `off`, as a share of `off`: the median over rounds of the ratio within a
    round.
    """
    return {variant: statistics.median(_ratios(figures, variant)) - 1 for variant in figures}


def interval(figures: Mapping[str, list[float]], variant: str) -> tuple[float, float]:
    """Where nine of ten medians lie of rounds drawn anew from those there were: what `shares` is worth."""
    ratios = _ratios(figures, variant)
    medians = sorted(statistics.median(random.choices(ratios, k=len(ratios))) for _ in range(DRAWS))
    return medians[DRAWS // 20] - 1, medians[-DRAWS // 20] - 1


def _ratios(figures: Mapping[str, list[float]], variant: str) -> list[float]:
    return [one / off for one, off in zip(figures[variant], figures["off"], strict=True)]


def report(figures: Figures, console: Console) -> bool:
    """Prints the table; whether all of it is within the budget."""
    within = True
    for workload, found in figures.items():
        table = Table(title=f"CPU per event: {workload}")
        for column in ("telemetry", "us per event, median", "least", "beyond off", "nine of ten"):
            table.add_column(column, justify="left" if column == "telemetry" else "right")
        share = shares(found)
        for variant, values in found.items():
            low, high = interval(found, variant)
            table.add_row(
                variant,
                f"{statistics.median(values):.1f}",
                f"{min(values):.1f}",
                f"{share[variant]:+.1%}",
                f"{low:+.1%} to {high:+.1%}",
            )
        console.print(table)
        within = within and share["all"] <= BUDGET
    console.print(f"The budget is {BUDGET:.0%}: {'kept' if within else 'BROKEN'}")
    return within


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.telemetry", description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--size", type=float, default=1.0, help="of a turn, times 540 runs or 24,000 appends")
    parser.add_argument("--parts", action="store_true", help="what metrics, logs and traces cost by themselves, too")
    parser.add_argument("--json", type=Path, help="write every figure of every round here")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="runwire-bench-") as folder:
        async with EmbeddedPostgres(EmbeddedOptions(Path(folder) / "postgres")) as postgres:
            variants = [*VARIANTS] if options.parts else ["off", "all"]
            figures = await measure(postgres, variants, rounds=options.rounds, size=options.size, console=console)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 0 if report(figures, console) else 1


if __name__ == "__main__":
    import uvloop

    sys.exit(uvloop.run(main()))
