"""The lock for starting the server of a data directory, and the contents of its `postmaster.pid`."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from runwire.db.embedded_process import servers_in

POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class LockFile:
    """The contents of `postmaster.pid`. A postmaster writes the later lines while it starts."""

    pid: int
    socket_dir: str = ""
    status: str = ""  # starting, ready, standby, stopping

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """None when there is no such file, or none with a pid in it."""
        try:
            lines = [line.strip() for line in path.read_text(errors="replace").splitlines()]
            return cls(int(lines[0]), *(lines[4:5] or [""]), *(lines[7:8] or [""]))
        except (FileNotFoundError, IndexError, ValueError):
            return None


def disown(path: Path, stale: LockFile) -> None:
    """Lets the next postmaster start although the number in the lock file may now be another process's.

    A postmaster passes over its parent's pid, which is ours. The rest of the file stays, since PostgreSQL finds in it
    the shared memory it must not share with survivors.
    """
    content = path.read_bytes()
    path.write_bytes(content.replace(b"%d" % stale.pid, b"%d" % os.getpid(), 1))


@contextlib.asynccontextmanager
async def alone(path: Path) -> AsyncIterator[None]:
    """Entered by one at a time among all who use the lock file `path`. The lock dies with its holder."""
    with path.open("ab") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(POLL_S)
        yield


async def ended(cluster: Path) -> None:
    """Returns when what a killed postmaster or initdb left at work in `cluster` has ended, as it does by itself."""
    while servers_in(cluster):  # noqa: ASYNC110  # nothing announces the end of another's child
        await asyncio.sleep(POLL_S)
