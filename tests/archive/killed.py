"""A process that archives or restores, and kills itself at a milestone: DSN, folder, milestone, batch to restore."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from archive.history import Archive, all_steps
from runwire.archive.restoring import Restorer
from runwire.archive.watching import Milestone, Watcher
from runwire.db import Database
from runwire.db.partitions import EventPartitions


class Killed(Watcher):
    def __init__(self, at: Milestone) -> None:
        self._at = at

    def reached(self, milestone: Milestone, what: str) -> None:  # noqa: ARG002  # the base class has it
        if milestone is self._at:
            os.kill(os.getpid(), signal.SIGKILL)


async def main(dsn: str, folder: str, at: str, batch_id: str = "") -> None:
    watcher = Killed(Milestone(at))
    async with Database(dsn) as database:
        here = Archive(database, Path(folder))
        archiver = here.archiver(watcher=watcher)
        if not batch_id:
            await all_steps(archiver)
            return
        restorer = Restorer(archiver.ledger, EventPartitions(database), here.store, watcher=watcher)
        [batch] = await archiver.ledger.batches(batch_id=batch_id)
        await restorer.batch(batch, keep_days=1)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
