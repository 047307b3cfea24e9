"""Starts a run of the agent `golden` every few seconds and follows each to its end, until it is told to stop.

`--check` says whether one has ended lately: the container's healthcheck. `RUNWIRE_URL` names the service.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import runwire
from runwire.errors import RunwireError

LAST_END: Final = Path(tempfile.gettempdir()) / "seed-last-end"
STALE_S: Final = 60.0


async def follow_one(client: runwire.Client, *, delay_ms: int) -> None:
    """One run, from its start to the end of its stream; every node takes `delay_ms`."""
    run = await client.start("golden", input={"delay_ms": delay_ms})
    events = [event async for event in client.stream(run)]
    LAST_END.touch()
    _say(f"run {run.run_id}: {len(events)} events")


async def seed(url: str, *, every_s: float) -> None:
    """Never returns. A service that is away for a while costs runs, never this process."""
    async with runwire.Client(url, retry_s=2.0) as client, asyncio.TaskGroup() as runs:
        while True:
            runs.create_task(_forgiving(client))
            await asyncio.sleep(every_s)


async def _forgiving(client: runwire.Client) -> None:
    try:
        await follow_one(client, delay_ms=random.randrange(10, 300))  # noqa: S311  # for looks
    except RunwireError as error:
        _say(f"{type(error).__name__}: {error}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def _until_told_to_stop(url: str, *, every_s: float) -> None:
    seeding = asyncio.create_task(seed(url, every_s=every_s))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, seeding.cancel)
    await asyncio.wait({seeding})
    if not seeding.cancelled():
        seeding.result()


def main() -> int:
    """0 when told to stop, or when `--check` finds a run that ended less than a minute ago."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=float, default=2.0, metavar="S", help="seconds between two starts")
    parser.add_argument("--check", action="store_true", help="only say whether a run has ended lately")
    arguments = parser.parse_args()
    if arguments.check:
        return 0 if LAST_END.exists() and time.time() - LAST_END.stat().st_mtime < STALE_S else 1
    asyncio.run(_until_told_to_stop(os.environ.get("RUNWIRE_URL", "http://127.0.0.1:8080"), every_s=arguments.every))
    return 0


if __name__ == "__main__":
    sys.exit(main())
