"""The long form, by hand: `make crash-content`. 200 runs, 300 readers, twelve of them tabs of a browser."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crash.content import Scale, written_through_kills
from npm import program

pytestmark = pytest.mark.timeout(1800)
SEED = int(os.environ.get("SEED", "1"))
RUNS = int(os.environ.get("RUNS", "200"))


async def test_two_hundred_runs_and_three_hundred_readers(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scale = Scale(
        runs=RUNS,
        readers=RUNS * 3 // 2,
        kills=24,
        freezes=8,
        words=60,
        pause_ms=250,
        spread_s=20.0,
        gap_s=(1.0, 3.0),
        within_s=900,
        tabs=12,
    )
    outcome = await written_through_kills(
        scale,
        database=database,
        folder=tmp_path,
        seed=SEED,
        chromium=program("chromium", "chromium-browser", "google-chrome"),
    )
    with capsys.disabled():
        print(f"\ncontent through kills, seed={SEED}: {outcome}")  # noqa: T201  # what it saw
