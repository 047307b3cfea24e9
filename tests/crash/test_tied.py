"""A killed test run leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from waiting import eventually

TESTS = Path(__file__).parents[1]
RUN = """
import subprocess, sys, time
from tied import tied
child = subprocess.Popen(tied([sys.executable, "-c", "import time; time.sleep(600)"]))
print(child.pid, flush=True)
time.sleep(600)
"""


def runs(pid: int, word: str) -> bool:
    """Whether the process is that program by now, and no zombie."""
    try:
        return word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.crash
@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
async def test_a_program_ends_with_the_test_run_that_was_killed() -> None:
    run = subprocess.Popen(  # noqa: ASYNC220  # returns at once
        [sys.executable, "-c", RUN], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(TESTS)}
    )
    assert run.stdout is not None
    pid = int(run.stdout.readline())
    await eventually(lambda: runs(pid, "time.sleep(600)"), within_s=30)
    run.kill()
    run.wait()
    run.stdout.close()
    await eventually(lambda: not runs(pid, "time.sleep(600)"), within_s=30)
