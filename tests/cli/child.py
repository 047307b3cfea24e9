"""A process of a supervisor under test. The n-th one does what CHILD_PLAN has at place n, or last."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from runwire.cli.heartbeat import Phase, beat


def _beat(phase: Callable[[float], Phase], *, for_s: float = 600.0) -> None:
    """`phase` of the seconds since now."""
    began = time.monotonic()

    async def beating() -> None:
        with_end = asyncio.create_task(beat(lambda: phase(time.monotonic() - began)))
        await asyncio.wait({with_end}, timeout=for_s)

    asyncio.run(beating())


def mute() -> None:
    time.sleep(600)


def starts() -> None:
    """Migrates before, for longer than a start may take."""
    _beat(lambda age_s: Phase.MIGRATING if age_s < 1.5 else Phase.STARTING)


def serves() -> None:
    _beat(lambda _: Phase.SERVING)


def serves_for_a_moment() -> None:
    _beat(lambda _: Phase.SERVING, for_s=0.5)
    sys.exit(1)


def refuses() -> None:
    sys.exit(2)


def drains() -> None:
    """By itself, without an end, and without a descriptor left."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)

    def phase(_age_s: float) -> Phase:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
        return Phase.DRAINING

    _beat(phase)


def stays() -> None:
    """It does not end when it is told to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(os.environ["CHILD_BEGAN"] + "-stays").touch()
    serves()


if __name__ == "__main__":
    began = Path(os.environ["CHILD_BEGAN"])
    number = len(began.read_text().split()) if began.exists() else 0
    plan = os.environ["CHILD_PLAN"].split()
    with began.open("a") as file:
        file.write(f"{os.getpid()}\n")
    globals()[plan[min(number, len(plan) - 1)]]()
