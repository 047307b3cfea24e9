"""An archive store for tests: objects in memory, by the host of the URL `toy://host`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

from runwire.archive.store import MARKER, ArchiveGone, ColdStore
from runwire.errors import ConfigurationError

KEPT: dict[str, dict[str, bytes]] = defaultdict(dict)


class ToyStore:
    def __init__(self, objects: dict[str, bytes]) -> None:
        self._objects = objects

    async def put(self, path: str, data: bytes | Path) -> None:
        self._objects[path] = data if isinstance(data, bytes) else data.read_bytes()  # noqa: ASYNC240  # small

    async def read(self, path: str, *, start: int, length: int) -> bytes:
        return self._found(path)[start : start + length]

    async def read_all(self, path: str) -> AsyncIterator[bytes]:
        yield self._found(path)

    async def paths(self, prefix: str) -> AsyncIterator[str]:
        for path in list(self._objects):
            if path.startswith(f"{prefix}/"):
                yield path

    async def delete(self, path: str) -> None:
        self._objects.pop(path, None)

    async def mark(self) -> None:
        self._objects.setdefault(MARKER, b"toy")

    def _found(self, path: str) -> bytes:
        if path not in self._objects:
            raise ArchiveGone(path)
        return self._objects[path]


def check_installed() -> None:
    return


def open_store(url: str) -> ColdStore:
    host = url.removeprefix("toy://")
    if not host:
        raise ConfigurationError((f"RUNWIRE_ARCHIVE_URL: {url} names no host",))
    return ToyStore(KEPT[host])
