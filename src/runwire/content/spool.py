"""Bytes that are being stored: a few in memory, more in a file, measured and hashed on their way.

The file has no name: its bytes are gone when the process is, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import Callable
from typing import IO, Final, Self, TypeVar

from runwire.errors import ArtifactTooLarge, ContentUnavailable

T = TypeVar("T")

INLINE_MAX: Final = 256 * 1024
"""Most bytes that stay in PostgreSQL. More go to the content store."""


class Spool:
    """Takes bytes piece by piece, at most `at_most` of them. Leaving it deletes its file.

    Raises ContentUnavailable when the file cannot be written: there is no room for it.
    """

    def __init__(self, *, at_most: int) -> None:
        self.size = 0
        self._at_most = at_most
        self._sha256 = hashlib.sha256()
        self._head = bytearray()
        self._file: IO[bytes] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # of bytes that nobody needs any more
                await asyncio.to_thread(self._file.close)

    async def write(self, piece: bytes) -> None:
        """Raises ArtifactTooLarge."""
        self.size += len(piece)
        if self.size > self._at_most:
            raise ArtifactTooLarge(self._at_most)
        if self._file is None and self.size <= INLINE_MAX:
            self._sha256.update(piece)
            self._head += piece
        else:
            await _of_the_file(lambda: self._to_file(piece))

    @property
    def sha256(self) -> bytes:
        return self._sha256.digest()

    async def content(self) -> bytes | IO[bytes]:
        """All of it: the bytes themselves, or more than INLINE_MAX of them as a file, open at its beginning."""
        file = self._file
        if file is None:
            return bytes(self._head)
        await _of_the_file(lambda: file.seek(0))
        return file

    def _to_file(self, piece: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="runwire-content-")  # noqa: SIM115  # closed on leaving
            self._file.write(self._head)
            self._head.clear()
        self._sha256.update(piece)
        self._file.write(piece)


async def _of_the_file(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise ContentUnavailable(f"this process cannot write a temporary file: {error.strerror}") from error
