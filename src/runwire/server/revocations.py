"""Checks the API keys of open streams repeatedly, and ends a stream whose key no longer holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

RECHECK_S: Final = 20.0
"""Seconds until a stream ends after its key was revoked, besides the time to read a keys file."""


class Endable(Protocol):
    """A stream, from `Streams.attach` or `Streams.replay`."""

    def rotate_within(self, seconds: float) -> None: ...


class Revocations:
    """The open streams of API keys. `stands` says whether a key may still watch."""

    def __init__(self, stands: Callable[[str], bool]) -> None:
        self._stands = stands
        self._streams: dict[str, set[Endable]] = {}
        self._loop: asyncio.Task[None] | None = None

    def watch(self, stream: Endable, key_id: str) -> None:
        """From here on the stream ends, resumable, when its key no longer stands. `forget` it when it is over.

        Two methods, because an object of `contextmanager` would take half a KiB of each stream.
        """
        self._streams.setdefault(key_id, set()).add(stream)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run(), name="recheck keys of streams")

    def forget(self, stream: Endable, key_id: str) -> None:
        streams = self._streams[key_id]
        streams.discard(stream)
        if not streams:
            del self._streams[key_id]
        if not self._streams and self._loop is not None:
            self._loop.cancel()

    def recheck(self) -> None:
        """One step: ends the streams of keys that no longer stand. Their clients come back and are refused."""
        for key_id, streams in self._streams.items():
            if not self._stands(key_id):
                for stream in streams:
                    stream.rotate_within(0)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(RECHECK_S)
            self.recheck()
