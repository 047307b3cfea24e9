"""Archiving and restoring by processes that are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from archive.history import archive, hot, read, run_of
from runwire.archive.cold import ColdLog
from runwire.archive.watching import Milestone
from runwire.stream import LogReader

TESTS = Path(__file__).parents[1]


async def killed(dsn: str, folder: Path, at: Milestone, *more: str) -> None:
    """Returns when the process has killed itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(TESTS / "archive" / "killed.py"),
        dsn,
        str(folder),
        at.value,
        *more,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await asyncio.wait_for(process.wait(), 60) == -signal.SIGKILL


@pytest.mark.crash
async def test_archivers_killed_one_after_the_other_get_it_done(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        logs = {f"r{n}": await run_of(here.database, f"r{n}", events=5 + n) for n in range(8)}
        reader = LogReader(here.database, cold=ColdLog(here.database, lambda: here.store, metrics=here.metrics))
        for at in (Milestone.DATA_STORED, Milestone.WRITTEN, Milestone.VERIFIED, Milestone.DETACHED):
            await killed(database, here.folder, at)
            for run_id, log in logs.items():
                assert await read(reader, run_id) == log, f"after a kill at {at}"
        await here.run()
        assert await here.partitions() == []
        assert {run_id: await read(reader, run_id) for run_id in logs} == logs


@pytest.mark.crash
async def test_a_restore_that_was_killed_is_repeated_and_whole(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        logs = {f"r{n}": await run_of(here.database, f"r{n}", events=4000) for n in range(4)}
        await here.run()
        batch_id = await here.database.fetchval("SELECT batch_id FROM archive_batches")
        reader = LogReader(here.database, cold=ColdLog(here.database, lambda: here.store, metrics=here.metrics))
        for at in (Milestone.PARTITION_MADE, Milestone.PUT_BACK, Milestone.RESTORED):
            await killed(database, here.folder, at, batch_id)
            for run_id, log in logs.items():
                assert await read(reader, run_id) == log
                assert await hot(here.database, run_id) in ([], log)  # never a part of a run
        assert {run_id: await hot(here.database, run_id) for run_id in logs} == logs
