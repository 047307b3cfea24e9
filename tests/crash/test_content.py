"""Clients show each byte that agents write once, while processes die. `make crash-content` is the long form."""

from __future__ import annotations

from pathlib import Path

import pytest

from crash.content import Scale, written_through_kills

pytestmark = [pytest.mark.crash, pytest.mark.timeout(420)]


async def test_each_byte_is_shown_once_while_processes_are_killed(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scale = Scale(
        runs=10, readers=12, kills=3, freezes=1, words=40, pause_ms=60, spread_s=1.0, gap_s=(0.6, 1.2), within_s=150
    )
    outcome = await written_through_kills(scale, database=database, folder=tmp_path, seed=1)
    assert outcome.attempts > 3 * scale.runs
    assert outcome.tally is not None
    assert outcome.tally.resumes > 0
    with capsys.disabled():
        print(f"\ncontent through kills, seed=1: {outcome}")  # noqa: T201  # what it saw
