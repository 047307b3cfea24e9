"""Cold storage in a folder, S3, Google Cloud Storage or Azure, all through obstore."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from runwire.archive.store import MARKER, ArchiveGone
from runwire.errors import ArchiveUnavailable, ConfigurationError, RunwireError
from runwire.objects import first_line, flush, open_objects

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_MARKER_TEXT: Final = b'{"format":"runwire-archive/1","about":"Archived runs of runwire; see its docs, retention."}\n'
_TIMEOUT_S: Final = 30.0
_PART_BYTES: Final = 4 << 20
_LISTED_AT_ONCE: Final = 1000


class ObjectStorage:
    """A ColdStore of objects below one URL. Every method raises ArchiveUnavailable, after half a minute at most."""

    def __init__(self, store: ObjectStore, *, folder: Path | None) -> None:
        """`folder` is where the objects are, for a local one: what is put there is flushed to the disk."""
        self._store = store
        self._folder = folder

    async def put(self, path: str, data: bytes | Path) -> None:
        """Stores `data`, or the file it names, and returns when it is durable. Replaces what was there."""
        import obstore

        with _translated(path):
            await obstore.put_async(self._store, path, data)
            if self._folder is not None:
                await asyncio.to_thread(flush, self._folder, path)

    async def read(self, path: str, *, start: int, length: int) -> bytes:
        """`length` bytes from `start` on. Raises ArchiveGone."""
        import obstore

        try:
            with _translated(path):
                async with asyncio.timeout(_TIMEOUT_S):
                    return bytes(await obstore.get_range_async(self._store, path, start=start, length=length))
        except FileNotFoundError:
            raise await self._gone(path) from None

    async def read_all(self, path: str) -> AsyncIterator[bytes]:
        """All of it, in pieces of some MiB. Raises ArchiveGone."""
        import obstore

        try:
            with _translated(path):
                found = await obstore.get_async(self._store, path)
                async for piece in found.stream(min_chunk_size=_PART_BYTES):
                    yield bytes(piece)
        except FileNotFoundError:
            raise await self._gone(path) from None

    async def delete(self, path: str) -> None:
        """Also when there is no such object."""
        import obstore

        try:
            with _translated(path):
                await obstore.delete_async(self._store, path)
        except FileNotFoundError:
            return

    async def paths(self, prefix: str) -> AsyncIterator[str]:
        """The paths of all objects below a folder, in no order."""
        import obstore

        try:
            with _translated(prefix):
                async for found in obstore.list(self._store, prefix, chunk_size=_LISTED_AT_ONCE):
                    for meta in found:
                        yield meta["path"]
        except FileNotFoundError:
            return

    async def mark(self) -> None:
        """Makes this an archive, unless it is one. A writer calls it first, to learn whether it can write."""
        try:
            async for _ in self.read_all(MARKER):
                return
        except (ArchiveGone, ArchiveUnavailable):
            await self.put(MARKER, _MARKER_TEXT)

    async def _gone(self, path: str) -> RunwireError:
        """A missing file counts as lost only if the archive itself exists: a wrong URL must not look like lost runs."""
        import obstore

        try:
            with _translated(MARKER):
                await obstore.head_async(self._store, MARKER)
        except (FileNotFoundError, ArchiveUnavailable):
            return ArchiveUnavailable(f"there is no archive where {path} was looked for")
        return ArchiveGone(path)


def open_store(url: str) -> ObjectStorage:
    """The archive at `url`: `file:///folder`, `s3://bucket/prefix`, `gs://...`, `az://...`; or a folder's path.

    Credentials, region and endpoint come from the environment, as each provider's own tools take them. Raises
    ConfigurationError when the URL is none.
    """
    from obstore.exceptions import BaseError

    try:
        store, folder = open_objects(url)
        return ObjectStorage(store, folder=folder)
    except (BaseError, ValueError) as error:
        raise ConfigurationError((f"RUNWIRE_ARCHIVE_URL: {first_line(error)}",)) from error
    except OSError as error:
        raise ArchiveUnavailable(f"the archive's folder cannot be made: {error.strerror or error}") from error


def check_installed() -> None:
    """Raises ModuleNotFoundError unless obstore is installed."""
    import obstore  # noqa: F401


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """Inside, obstore's failures become ArchiveUnavailable; FileNotFoundError, which it raises too, stays."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError, TimeoutError) as error:
        raise ArchiveUnavailable(f"the archive failed at {path}: {first_line(error)}") from error
