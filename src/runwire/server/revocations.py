"""Ends open streams whose callers may no longer watch: their token has expired, or their API key was revoked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

from runwire import clock
from runwire.server.auth.caller import Caller

RECHECK_S: Final = 20.0
"""Seconds until a stream ends after its key was revoked, besides the time to read a keys file."""
_UNWATCHED: Final = nullcontext()


class Endable(Protocol):
    """A stream, from `Streams.attach` or `Streams.replay`."""

    def rotate_within(self, seconds: float) -> None: ...


class Revocations:
    """The open streams of API keys. `stands` says whether a key may still watch."""

    def __init__(self, stands: Callable[[str], bool]) -> None:
        self._stands = stands
        self._streams: dict[str, set[Endable]] = {}
        self._loop: asyncio.Task[None] | None = None

    def watching(self, stream: Endable, caller: Caller) -> AbstractContextManager[None]:
        """Inside the block the stream ends, resumable, when its caller may no longer watch."""
        if caller.expires_at is not None:
            stream.rotate_within(caller.expires_at - clock.wall_us() / 1e6)
        return _UNWATCHED if caller.key_id is None else _Watching(self, stream, caller.key_id)

    def watch(self, stream: Endable, key_id: str) -> None:
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


class _Watching:
    """A class, because a generator of `contextmanager` would take half a KiB of each stream."""

    __slots__ = ("_by", "_key_id", "_stream")

    def __init__(self, by: Revocations, stream: Endable, key_id: str) -> None:
        self._by, self._stream, self._key_id = by, stream, key_id

    def __enter__(self) -> None:
        self._by.watch(self._stream, self._key_id)

    def __exit__(self, *_exc: object) -> None:
        self._by.forget(self._stream, self._key_id)
