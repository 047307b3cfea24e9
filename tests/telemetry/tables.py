"""The tables of docs/telemetry.md and docs/tracing.md, as rows of cells."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "telemetry.md"
TRACING = PAGE.with_name("tracing.md")
MESSAGING = {"system", "destination.name", "operation.name", "operation.type", "batch.message_count"}


def table(heading: str, *, page: Path = PAGE) -> list[list[str]]:
    """The rows of the one table under `## heading`, without its header; cells stripped, backticks kept."""
    section = page.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def code(cell: str) -> str:
    """The texts between backticks in a cell."""
    return cell.strip("`")


def declared_attributes(cell: str) -> tuple[set[str], set[str]]:
    """Those a span must have, and beginnings of all it may have. A question mark says: not always."""
    names = [one.strip() for one in cell.split(",")]
    always = {code(name) for name in names if not name.endswith("?")}
    allowed = always | {code(name.removesuffix("?")) for name in names} | {"error.type"}
    required = {name for name in always if not name.endswith(".*")}
    if "messaging.*" in always:
        required |= {f"messaging.{one}" for one in MESSAGING}
    return required, {name.removesuffix("*") for name in allowed}
