"""Cold storage as the archive uses it. `kinds` has the implementations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Protocol

from runwire.errors import RunwireError

MARKER: Final = "runwire-archive.json"
"""The marker file at the root of every archive. Without it, the URL does not name the archive that was written to."""


class ArchiveGone(RunwireError):
    """The archive answers, but a person or a lifecycle rule has deleted the object."""

    code = "archive_gone"

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} is no longer in the archive")
        self.path = path


class ColdStore(Protocol):
    """Objects by path, below one URL. Every method raises ArchiveUnavailable, after half a minute at most."""

    async def put(self, path: str, data: bytes | Path) -> None:
        """Stores `data`, or the file it names, and returns when it is durable. Replaces what was there."""

    async def read(self, path: str, *, start: int, length: int) -> bytes:
        """`length` bytes from `start` on. Raises ArchiveGone."""

    def read_all(self, path: str) -> AsyncIterator[bytes]:
        """All of it, in pieces of some MiB. Raises ArchiveGone."""

    def paths(self, prefix: str) -> AsyncIterator[str]:
        """The paths of all objects below a folder, in no order."""

    async def delete(self, path: str) -> None:
        """Also when there is no such object."""

    async def mark(self) -> None:
        """Makes this an archive, unless it is one. A writer calls it first, to learn whether it can write."""
