"""Processes that are killed while they store content leave nothing dangling, and nothing that is not collected."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from content.plane import LARGE, Plane
from pipeline import stages

TESTS = Path(__file__).parents[1]
POINTS = ("noted", "uploaded", "in the transaction", "committed")


async def killed(*words: str) -> None:
    """Returns when the process has killed itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(TESTS / "content" / "killed.py"),
        *words,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL


@pytest.mark.crash
async def test_a_kill_at_any_point_leaves_no_reference_without_bytes_and_no_orphan(
    database: str, tmp_path: Path
) -> None:
    async with stages(database) as s:
        plane = Plane(s.database, tmp_path)
        runs = {point: f"r{n}" for n, point in enumerate(POINTS)}
        fences = {run_id: await s.started_run(run_id) for run_id in runs.values()}
        await asyncio.gather(
            *(killed(database, str(tmp_path), run_id, str(fences[run_id]), point) for point, run_id in runs.items())
        )
        await plane.check(collected=False)
        assert {point for point in POINTS if await plane.reader.list(runs[point])} == {"committed"}
        assert await plane.bytes_of(runs["committed"], 1) == LARGE + runs["committed"].encode()
        await plane.collector().collect()
        await plane.check(collected=True)
        # The next owner of such a run stores it anew.
        for run_id, fence in fences.items():
            stored = await plane.stored(s, run_id, "large", LARGE + run_id.encode(), fence=fence)
            assert stored.n == 1
