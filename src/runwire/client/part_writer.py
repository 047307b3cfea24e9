"""Writes one part of an external run. Every call may be repeated: an offset says where its bytes go."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Final, Self

from runwire.client.calls import Call, Caller
from runwire.client.connection import path_of
from runwire.client.results import PartInfo
from runwire.errors import InvalidRequest, PartMoved, PartRefused, RunwireError
from runwire.model.content import OCTETS
from runwire.model.part_offset import offset_text

PIECE_BYTES: Final = 262_144
"""Bytes of one request."""


class PartWriter:
    """A part of an external run: `async with client.write_part(run, "answer") as part: await part.write(text)`.

    Entering the block opens the part, its end seals it, and an exception abandons it, so that the next part of the name
    begins a new attempt. `n`, `attempt` and `size` are those of the part. Used by one task.
    """

    def __init__(self, caller: Caller, *, run_id: str, fence: int, name: str, media_type: str) -> None:
        self.run_id = run_id
        self.name = name
        self.n = 0
        self.attempt = 0
        self.size = 0
        self._caller = caller
        self._fence = fence
        self._media_type = media_type
        self._one_at_a_time = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.seal()
        else:
            with contextlib.suppress(RunwireError):  # what happened first is what the caller learns of
                await self.abandon()

    async def open(self) -> None:
        """Opens the part, or the next attempt of one that was abandoned.

        Raises InvalidRequest, PartRefused (`part_open`, `too_many_parts`), FenceStale, NotExternal, RunClosed.
        """
        body = {"name": self.name, "mediaType": self._media_type}

        def settle(error: RunwireError) -> PartInfo | None:
            # While the fence holds nobody else opens parts: the one that is open is that of the lost answer.
            match error:
                case PartRefused(code="part_open", n=n, attempt=int(attempt)):
                    return PartInfo(n, self.name, self._media_type, attempt, "open", 0)
            return None

        opened = await self._caller.call(self._call("POST", "", body=body), PartInfo, settle=settle)
        self.n, self.attempt, self.size = opened.part, opened.attempt, 0

    async def write(self, data: str | bytes) -> None:
        """Adds bytes; text is encoded as UTF-8. They are stored, once, when it returns. They renew the
        run's lease when less than half of it is left.

        A write beyond the service's rate is tried again for the client's `retry_s`. Raises PartRefused
        (`part_too_large`, `part_ended`, `part_rate_exceeded`), PartMoved when somebody else wrote, FenceStale,
        RunClosed.
        """
        try:
            left = memoryview(data.encode() if isinstance(data, str) else data)
        except UnicodeEncodeError as error:
            raise InvalidRequest("the text has a lone surrogate, which is no character") from error
        async with self._one_at_a_time:
            while left:
                await self._write(bytes(left[:PIECE_BYTES]))
                left = left[PIECE_BYTES:]

    async def _write(self, piece: bytes) -> None:
        def settle(error: RunwireError) -> bool | None:
            return True if isinstance(error, PartMoved) and error.size == self.size + len(piece) else None

        call = self._call(
            "POST", f"/{self._known()}", raw=piece, query={"offset": offset_text(self.attempt, self.size)}
        )
        await self._caller.call(call, object, settle=settle)
        self.size += len(piece)

    async def seal(self) -> None:
        """Ends the part: no byte follows, and it becomes an artifact. Repeating it changes nothing."""
        call = self._call("POST", f"/{self._known()}", raw=b"", headers={"Stream-Closed": "true"})
        await self._caller.call(call, object)

    async def abandon(self) -> None:
        """Ends the part without sealing it. It keeps its bytes until its name is opened again.

        Repeating it changes nothing. Raises PartRefused (`part_ended`) for a sealed part.
        """
        await self._caller.call(self._call("DELETE", f"/{self._known()}"), object)

    def _known(self) -> int:
        if not self.n:
            raise RuntimeError("the part is not open: use `async with client.write_part(...) as part`")
        return self.n

    def _call(
        self,
        method: str,
        below: str,
        *,
        body: dict[str, str] | None = None,
        raw: bytes | None = None,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Call:
        kind = {} if raw is None else {"Content-Type": OCTETS}
        return Call(
            method,
            f"{path_of(self.run_id)}/parts{below}",
            body=body,
            raw=raw,
            query=query,
            headers={"Runwire-Fence": str(self._fence), **kind, **(headers or {})},
            run_id=self.run_id,
            fence=self._fence,
        )
