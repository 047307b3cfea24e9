"""`make bench-report`: tables and pictures of docs/performance.md, from the figures in benchmarks/results/.

Every block between `<!-- bench-NAME:begin -->` and `<!-- bench-NAME:end -->` is written anew from
benchmarks/results/NAME.json, which `python -m benchmarks --json` writes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.bars import Group, svg
from benchmarks.report import shown, times
from benchmarks.scenarios import SCENARIOS

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "performance.md"
PICTURES = ROOT / "docs" / "img"
BLOCK = re.compile(r"(<!-- bench-(?P<name>[\w-]+):begin -->\n).*?(<!-- bench-(?P=name):end -->)", re.DOTALL)
TITLES = {scenario.NAME: scenario.TITLE for scenario in SCENARIOS}


def rendered(page: str) -> str:
    """The page with its blocks written anew. Writes their pictures."""
    return BLOCK.sub(lambda found: found[1] + block(found["name"]) + found[3], page)


def block(name: str) -> str:
    if not (RESULTS / f"{name}.json").exists():
        return f"Not measured yet: `make bench-{name}` writes the table here.\n"
    figures = json.loads((RESULTS / f"{name}.json").read_text())
    return "\n".join(
        part for scenario in figures["medians"] for part in _scenario(name, scenario, figures) if part is not None
    )


def _scenario(name: str, scenario: str, figures: dict[str, Any]) -> list[str | None]:
    rows = figures["medians"][scenario]
    rounds = len(figures["rounds"][scenario])
    groups = [
        Group(what, ratios)
        for what, row in rows.items()
        if (ratios := {key.removeprefix("x "): value for key, value in row.items() if key.startswith("x ")})
    ]
    picture = None
    if groups:
        path = PICTURES / f"bench-{name}-{scenario}.svg"
        others = list(dict.fromkeys(other for group in groups for other in group.ratios))
        title = f"{scenario}: runwire beside {', '.join(others)}"
        axis = "times as good, logarithmic; right of the line runwire is ahead"
        path.write_text(svg(title, axis, groups, target=others[0] if len(others) == 1 else "as good"))
        picture = f"![How many times as good as the others]({path.relative_to(PAGE.parent)})\n"
    return [
        f"### {TITLES[scenario]}\n",
        f"{_circumstances(figures['machine'], scenario, rounds)}\n",
        picture,
        _table(rows) + "\n",
        *(f"- {note}" for note in figures.get("notes", {}).get(scenario, [])),
        "",
    ]


def _circumstances(machine: dict[str, Any], scenario: str, rounds: int) -> str:
    load = ", ".join(f"{value:g}" for value in machine.get("load after rounds", {}).get(scenario, []))
    settings = [f"{machine['cpus']} cores"]
    settings += [f"{machine['memory GiB']} GiB"] if "memory GiB" in machine else []
    settings += [machine["system"], f"Python {machine['python']}", "fsync on"]
    settings += [f"commit {machine['commit']}"] if "commit" in machine else []
    counted = "one round" if rounds == 1 else f"medians of {rounds} rounds"
    seconds = f" of {machine['seconds']:g} s a measurement" if "seconds" in machine else ""
    return f"{', '.join(settings)}; {counted}{seconds}; load of the machine after each: {load}."


def _table(rows: dict[str, dict[str, float]]) -> str:
    """A ratio stands behind the figure it is of, where that has a column."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    columns = [key for key in columns if not (key.startswith("x ") and key.removeprefix("x ") in columns)]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for what, row in rows.items():
        cells = [
            "" if key not in row else shown(row[key]) + (f" ({times(row[f'x {key}'])} x)" if f"x {key}" in row else "")
            for key in columns
        ]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
