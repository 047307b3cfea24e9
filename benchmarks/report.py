"""Figures of several rounds: their medians, and tables of them."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Rows = dict[str, dict[str, float]]


@dataclass(slots=True)
class Report:
    """Every figure of every round, by scenario, what it is of, and its name."""

    machine: dict[str, Any]
    titles: dict[str, str] = field(default_factory=dict)
    rounds: dict[str, list[Rows]] = field(default_factory=dict)
    medians: dict[str, Rows] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, title: str, rows: Rows) -> None:
        self.titles[name] = title
        load = os.getloadavg()[0]
        self.rounds.setdefault(name, []).append(rows)
        self.machine.setdefault("load after rounds", {}).setdefault(name, []).append(round(load, 2))

    def as_json(self) -> dict[str, Any]:
        return {"machine": self.machine, "notes": self.notes, "medians": self.medians, "rounds": self.rounds}


def machine() -> dict[str, Any]:
    """The subject of the figures, and its settings."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "cpus": os.cpu_count(),
        "memory GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "system": platform.platform(),
        "fsync": "on",
        **({"commit": commit.stdout.strip()} if commit.returncode == 0 else {}),
    }


def medians(rounds: Sequence[Rows]) -> Rows:
    """The median of every figure over the rounds."""
    return {
        what: {name: statistics.median(rows[what][name] for rows in rounds) for name in figures}
        for what, figures in rounds[0].items()
    }


def markdown(title: str, rows: Rows) -> str:
    """A table; a figure that a row has not is left blank."""
    columns = list(dict.fromkeys(name for figures in rows.values() for name in figures))
    lines = [f"\n{title}\n", "| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for what, figures in rows.items():
        cells = [shown(figures[name]) if name in figures else "" for name in columns]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def times(ratio: float) -> str:
    """A ratio as it reads best, without its `x`."""
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


def shown(value: float) -> str:
    """A figure as it reads best."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}"
