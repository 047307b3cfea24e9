"""The content store: objects that are too large for PostgreSQL, below one URL. Every operation has a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from prometheus_client import Counter

from runwire.content.metrics import StoreFailure
from runwire.content.settings import DEFAULTS
from runwire.errors import ConfigurationError, ContentUnavailable
from runwire.objects import first_line, flush, open_objects
from runwire.telemetry.logs import LogEvent, get_logger

if TYPE_CHECKING:
    from obstore.store import ObjectStore

BLOCK_BYTES: Final = 1 << 20
"""Bytes that one read asks for."""
_SLOWEST_BYTES_PER_S: Final = 1 << 20

_log = get_logger()


class ContentStore:
    """Objects, each written once and read in blocks. Every method raises ContentUnavailable, within its deadline."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        folder: Path | None,
        failures: Mapping[str, Counter],
        patience_s: float = DEFAULTS.content_patience_s,
    ) -> None:
        """`folder` is where the objects are, for a local store: what is put there is flushed to the disk.

        `patience_s`: seconds that an operation may take, besides what its bytes take at 1 MiB/s.
        """
        self._store = store
        self._folder = folder
        self._failures = failures
        self._patience_s = patience_s

    async def put(self, path: str, data: bytes | IO[bytes], *, size: int, sha256: bytes) -> None:
        """Stores `data`, which may be an open file, and reads all of it back: it is durable then, and proven."""
        import obstore

        with self._failing(StoreFailure.PUT):
            async with asyncio.timeout(self._patience_s + size / _SLOWEST_BYTES_PER_S):
                await obstore.put_async(self._store, path, data)
                if self._folder is not None:
                    await asyncio.to_thread(flush, self._folder, path)
        digest = hashlib.sha256()
        found = 0
        async for block in self.read(path, start=0, stop=size):
            await asyncio.to_thread(digest.update, block)
            found += len(block)
        if found != size or digest.digest() != sha256:
            raise self._failed(StoreFailure.VERIFY, "it gave back other bytes than were put there")

    async def read(self, path: str, *, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes from `start` up to `stop`, in blocks. It raises in the middle when the object goes meanwhile."""
        import obstore

        while start < stop:
            end = min(start + BLOCK_BYTES, stop)
            with self._failing(StoreFailure.READ):
                async with asyncio.timeout(self._patience_s):
                    block = bytes(await obstore.get_range_async(self._store, path, start=start, end=end))
            if len(block) != end - start:
                raise self._failed(StoreFailure.READ, "an object is shorter than it was")
            yield block
            start = end

    async def delete(self, path: str) -> None:
        """Also when there is no such object, and with what an upload left beside it in a folder when it was killed."""
        import obstore

        with self._failing(StoreFailure.DELETE):
            async with asyncio.timeout(self._patience_s):
                with contextlib.suppress(FileNotFoundError):
                    await obstore.delete_async(self._store, path)
                if self._folder is not None:
                    await asyncio.to_thread(_delete_unfinished, self._folder / path)

    @contextmanager
    def _failing(self, operation: StoreFailure) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except TimeoutError as error:
            raise self._failed(operation, "no answer in time") from error
        except FileNotFoundError as error:
            raise self._failed(operation, "an object is missing") from error
        except (BaseError, OSError) as error:
            raise self._failed(operation, type(error).__name__) from error

    def _failed(self, operation: StoreFailure, why: str) -> ContentUnavailable:
        """Counts and logs the failure. `why` is one of a bounded set: the store's own words may name what is stored."""
        self._failures[operation].inc()
        _log.warning(LogEvent.CONTENT_STORE_FAILED, operation=operation.value, why=why)
        return ContentUnavailable(f"the content store failed to {operation.value}: {why}")


def _delete_unfinished(file: Path) -> None:
    """Deletes the files that obstore writes to before it renames one to `file`."""
    for unfinished in file.parent.glob(f"{file.name}#*"):
        unfinished.unlink(missing_ok=True)


def open_content_store(
    url: str, *, failures: Mapping[str, Counter], patience_s: float = DEFAULTS.content_patience_s
) -> ContentStore:
    """The store at `url`: `file:///folder`, `s3://bucket/prefix`, `gs://...`, `az://...`; or a folder's path.

    Credentials, region and endpoint come from the environment, as each provider's own tools take them. Raises
    ConfigurationError when the URL is none, ContentUnavailable when obstore is missing or a folder cannot be made.
    """
    try:
        from obstore.exceptions import BaseError
    except ModuleNotFoundError as error:
        raise ContentUnavailable('obstore is not installed: pip install "runwire[content]"') from error
    try:
        store, folder = open_objects(url)
    except (BaseError, ValueError) as error:
        raise ConfigurationError((f"RUNWIRE_CONTENT_URL: {first_line(error)}",)) from error
    except OSError as error:
        raise ContentUnavailable(f"the content store's folder cannot be made: {error.strerror or error}") from error
    return ContentStore(store, folder=folder, failures=failures, patience_s=patience_s)
