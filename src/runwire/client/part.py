"""The bytes of one part, while it is written and afterwards, each exactly once through any number of reconnects."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections import deque
from collections.abc import Generator
from typing import Final

import aiohttp
import msgspec

from runwire.client.calls import Call, Caller, decoded
from runwire.client.problems import UnexpectedAnswer
from runwire.client.results import PartInfo, PartList, RunView
from runwire.client.sse import ServerEvent
from runwire.client.stream import FollowedStream, PartPiece
from runwire.errors import NotPermitted, PartNotFound, PartReset
from runwire.model.part_offset import PART_BEGINNING, offset_text, place_of

LOOK_S: Final = 1.0
"""Seconds between two looks at an abandoned part of an open run, for its next attempt."""
_ENCODING: Final = "Stream-SSE-Data-Encoding"


class PartStream(FollowedStream[PartPiece]):
    """The bytes of a part: `await` it to have all of them once the part has ended, or iterate over pieces as they come.

    A piece with `reset` says that a new attempt of the part began: drop the bytes of the one before. The end is that of
    a sealed part, or of an abandoned one whose run is over; `state` then says which. With `live=False` it is the end of
    what there is now. `offset` is where the last piece ended: another stream from there continues.
    """

    def __init__(
        self,
        caller: Caller,
        view: Call,
        *,
        n: int,
        offset: str,
        live: bool,
        idle_s: float,
        patience_s: float | None,
    ) -> None:
        super().__init__(caller, view, after=0, idle_s=idle_s, patience_s=patience_s)
        self.n = n
        self.offset = offset
        self.state: str | None = None
        self._live = live
        self._next = offset
        self._offsets: deque[str] = deque()
        self._pending: list[bytes] = []
        self._headers[_ENCODING] = "base64"  # text would come with other line ends
        self._encoded = True
        self._over = False
        self._finished = False

    def __await__(self) -> Generator[object, None, bytes]:
        return self._whole().__await__()

    async def __anext__(self) -> PartPiece:
        """Raises RunNotFound, PartNotFound, ArtifactErased, InvalidRequest (`invalid_offset`) and their like at once.
        The rest is as for RunStream.
        """
        piece = await super().__anext__()
        self.offset = self._offsets.popleft()
        return piece

    async def _whole(self) -> bytes:
        data = bytearray()
        async for piece in self:
            if piece.reset:
                data.clear()
            data += piece.data
        return bytes(data)

    @property
    def _settled(self) -> bool:
        return bool(self._events) or self._finished or self._closed

    @property
    def _path(self) -> str:
        return f"{self._view.path}/parts/{self.n}"

    @property
    def _last_event_id(self) -> str | None:
        return None

    async def _read(self) -> bytes:
        if not self._over:
            return await super()._read()
        self._drop()
        await self._look()
        return b""

    async def _connect(self) -> aiohttp.ClientResponse | None:
        self._query = {"offset": self._next, "live": "sse"}
        self._pending.clear()
        try:
            response = await super()._connect()
        except PartReset as reset:
            self._begin_again(reset.attempt)
            return None
        if response is not None:
            self._encoded = response.headers.get(_ENCODING) == "base64"
        return response

    async def _finish(self) -> None:
        self._over = True

    async def _look(self) -> None:
        """After the end of an attempt: whether it was sealed, another one has begun, or will never."""
        part = await self._listed()
        over = part.state != "abandoned" or not self._live
        if not over and await self._is_over():
            part, over = await self._listed(), True  # as it was left for good
        place = place_of(self._next)
        if place is not None and part.attempt > place[0]:
            self._over = False
            self._begin_again(part.attempt)
        elif part.state == "open" and self._live:
            self._over = False
        elif over:
            self.state = part.state
            self._finished = True
        else:
            await asyncio.sleep(LOOK_S)

    async def _listed(self) -> PartInfo:
        listing = Call("GET", f"{self._view.path}/parts", run_id=self.run_id)
        for part in (await self._caller.once(listing, PartList)).parts:
            if part.part == self.n:
                return part
        raise PartNotFound(self.run_id, n=self.n)

    async def _is_over(self) -> bool:
        """Whether the run goes on; one that these credentials may not look at does not."""
        try:
            return (await self._caller.once(self._view, RunView)).state.terminal
        except NotPermitted:
            return True

    def _take(self, frames: list[ServerEvent]) -> None:
        for frame in frames:
            if frame.event == "data":
                self._pending.append(self._bytes_of(frame.data))
            elif frame.event == "control":
                self._hear_control(decoded(frame.data, _Control))

    def _bytes_of(self, data: str) -> bytes:
        if not self._encoded:
            return data.encode()
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UnexpectedAnswer("the bytes of the part are no base64") from error

    def _hear_control(self, control: _Control) -> None:
        data = b"".join(self._pending)
        self._pending.clear()
        place = place_of(control.stream_next_offset)
        if place is None:
            raise UnexpectedAnswer("the offset is not one of this service")
        attempt, end = place
        begin = end - len(data)
        expected = (attempt, 0) if self._next == PART_BEGINNING else place_of(self._next)
        if expected not in (None, (attempt, begin)):
            raise UnexpectedAnswer(f"the bytes of the part go on at {begin}, not where they ended")
        self._next = control.stream_next_offset
        if data:
            self._keep_piece(PartPiece(self.n, attempt, begin, data))
        if control.stream_closed or (control.up_to_date and not self._live):
            self._over = True

    def _begin_again(self, attempt: int) -> None:
        self._next = offset_text(attempt, 0)
        self._keep_piece(PartPiece(self.n, attempt, 0, b"", reset=True))

    def _keep_piece(self, piece: PartPiece) -> None:
        self._events.append(piece)
        self._offsets.append(self._next)


class _Control(msgspec.Struct, frozen=True, rename="camel"):
    stream_next_offset: str
    up_to_date: bool = False
    stream_closed: bool = False
