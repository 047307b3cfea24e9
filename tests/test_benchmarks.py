"""Benchmarks work, in their small form: nothing is lost, whatever the figures are."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.skipif(
        shutil.which("cc") is None and shutil.which("gcc") is None, reason="clients of benchmarks are written in C"
    ),
    pytest.mark.timeout(240),
]


async def measured(dsn: str, name: str, folder: Path) -> dict[str, dict[str, float]]:
    """The figures of one round."""
    result = folder / "figures.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks", "--only", name, "--smoke", "--dsn", dsn),
        *("--rounds", "1", "--seconds", "0.2", "--json", str(result)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 200)
    assert process.returncode == 0, output.decode()
    found: dict[str, Any] = json.loads(result.read_text())
    figures: dict[str, dict[str, float]] = found["medians"][name]
    return figures


async def test_chunks_of_parts_come_whole_and_in_order(postgres_dsn: str, tmp_path: Path) -> None:
    figures = await measured(postgres_dsn, "parts", tmp_path)
    lost = {what: row for what, row in figures.items() if what.endswith("missing or wrong")}
    assert [set(row) for row in lost.values()] == [{"runwire", "its events"}]
    assert all(value == 0 for row in lost.values() for value in row.values()), lost
    assert all(row["runwire"] > 0 for what, row in figures.items() if what.endswith(("/s", "CPU us")))


async def test_a_hundred_runs_on_one_connection_cost_less_than_a_third_more(postgres_dsn: str, tmp_path: Path) -> None:
    figures = await measured(postgres_dsn, "many-runs", tmp_path)
    assert set(figures) == {"live, one event of each run in turn", "stored"}
    assert all(row["times the bytes"] <= 1.3 for row in figures.values()), figures
