"""The threat model names real tests, and every kind of threat."""

from __future__ import annotations

import ast
import re

from docs.pages import ROOT

TEXT = (ROOT / "SECURITY.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.partition("\n## Threats\n")[2].partition("\n## ")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| threat")
]
STRIDE = {
    "Spoofing",
    "Tampering",
    "Repudiation",
    "Information disclosure",
    "Denial of service",
    "Elevation of privilege",
}


def names_in(path: str) -> set[str]:
    """Every test of a file, as `test_x` or `TestY::test_x`."""
    found = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.AsyncFunctionDef)}
    return found


def test_every_kind_of_threat_is_there() -> None:
    assert {row[0] for row in ROWS} == STRIDE


def test_every_row_names_a_test_that_exists() -> None:
    for row in ROWS:
        assert len(row) == 4, row
        (node,) = re.findall(r"`(tests/[\w/]+\.py::[\w:]+)`", row[3])
        path, _, name = node.partition("::")
        assert name in names_in(path), node


def test_the_pages_lead_to_each_other() -> None:
    assert "docs/security.md" in TEXT
    assert "SECURITY.md" in (ROOT / "docs" / "security.md").read_text()
    assert "SECURITY.md" in (ROOT / "README.md").read_text()
