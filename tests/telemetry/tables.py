"""The tables of docs/telemetry.md, as rows of cells."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "telemetry.md"


def table(heading: str) -> list[list[str]]:
    """The rows of the one table under `## heading`, without its header; cells stripped, backticks kept."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def code(cell: str) -> str:
    """What a cell says between backticks."""
    return cell.strip("`")
