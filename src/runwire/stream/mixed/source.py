"""The pieces of one client's mixed stream: steps from PostgreSQL until it is where its watch is, then the fan-out.

    behind --steps, up to the watch's head--> at a frame that the watch keeps --join--> follower
      ^                                                                                   |
      +-- given back: too slow, the run's end, an id of its own -------------------------+

A client with places that nobody else has waits outside of the fan-out: one that asked for other parts before, or that
comes from a replica which knows more. It takes steps whenever there is news.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from runwire.content.part_metrics import PartMetrics
from runwire.stream.fanout import Follower, Outlet
from runwire.stream.limits import StreamLimits
from runwire.stream.mixed.cursor import MixedCursor, parse_mixed_cursor
from runwire.stream.mixed.frames import PART_HEAD, last_id_in
from runwire.stream.mixed.reader import BytesAt, MixedReader, counted_from
from runwire.stream.mixed.watch import MixedWatch
from runwire.stream.piece import FRAME_END, Piece, Times, fitting, split
from runwire.stream.tail import End
from runwire.telemetry.metrics import DeliveryPath, DisconnectReason


class Joining(Follower, Protocol):
    """The session, as its source sees it."""

    def ask_to_end(self, reason: DisconnectReason, *, among: int = 1) -> None: ...


class CountedPiece(Piece):
    """A piece whose `count` is that of its events. The other frames have bytes of parts."""

    __slots__ = ("_events",)

    def __init__(self, first: int, last: int, frames: bytes) -> None:
        super().__init__(first, last, (frames,))
        self._events = super().count - frames.count(PART_HEAD)

    @property
    def count(self) -> int:
        return self._events


class MixedSource:
    """A Source for one session, and its follower in the fan-out of its watch, where frames have other numbers."""

    __slots__ = (
        "_at",
        "_end",
        "_joined",
        "_known_us",
        "_lag",
        "_limits",
        "_live",
        "_looked_at",
        "_now_us",
        "_reader",
        "_rest",
        "_suspended",
        "_times",
        "_written",
        "client",
        "cursor",
        "watch",
    )
    path = DeliveryPath.BACKFILL

    def __init__(
        self,
        watch: MixedWatch,
        cursor: MixedCursor,
        *,
        reader: MixedReader,
        limits: StreamLimits,
        parts: PartMetrics,
        now_us: Callable[[], int],
    ) -> None:
        """`now_us`: the clock that the parts' times are of."""
        self.watch = watch
        self.client: Joining
        """The session. Set it before anything else."""
        self.cursor = 0
        """The number of the last frame that was written, while it follows."""
        self._at = cursor.text
        """The id of the last frame that was written, or is in `_rest`."""
        self._reader = reader
        self._limits = limits
        self._lag = parts.lag
        self._now_us = now_us
        self._rest = b""
        self._times: list[Times] = []
        self._end: End | None = None
        self._joined = False
        self._live = False
        """It had all there was, and waits for what comes: that is late if it takes long, whatever way it comes."""
        self._known_us = 0
        """Bytes that the next step finds may be there since then (epoch us); 0: nobody knows."""
        self._written: list[Times] = []
        self._looked_at = -1
        """The news of the watch before a step that found nothing."""
        self._suspended = False
        """It took a step before it had no piece."""

    # ------------------------------------------------------------------ for its session

    @property
    def run_id(self) -> str:
        return self.watch.run_id

    def stored_part(self, *, after: int) -> AbstractContextManager[object] | None:  # noqa: ARG002
        return None

    async def piece_after(self, cursor: int) -> Piece | None:
        """The next frames, numbered from the session's cursor on; None when it has to wait, or the run is over.

        Raises what MixedReader.step raises.
        """
        watch, self._suspended = self.watch, False
        while not self._rest and self._end is None:
            trail = watch.trail
            if trail is not None and (number := trail.number_of(self._at)) is not None:
                if number >= trail.fanout.sent:
                    return None
                self._rest, times = trail.frames_after(number)
                self._times = times if self._live else []
                break
            if trail is not None and self._looked_at == watch.news:
                return None
            news, self._suspended = watch.news, True
            target = None if trail is None else watch.head
            place = parse_mixed_cursor(self._at, where="id")
            step = await self._reader.step(
                watch.run_id, place, names=watch.names, target=target, published=watch.published
            )
            self._rest = step.frames
            self._times = counted_from(step.times, self._known_us) if self._live else []
            self._looked_at = -1 if step.frames else news
            if not step.frames:
                self._end = step.end
            if step.complete:
                self._live, self._known_us = True, step.began_us
            if watch.trail is None and step.end is None and (step.complete or not step.frames):
                watch.adopt(step)  # not only where nothing is new: where reading takes long, something always is
        return self._piece(cursor) if self._rest else None

    def ended_for(self, cursor: int) -> End | None:  # noqa: ARG002  # the id says more
        return None if self._rest else self._end or self.watch.ended_at(self._at)

    def join(self, client: Follower) -> None:
        watch, self._live, self._known_us = self.watch, True, 0
        trail = watch.trail
        if trail is not None and (number := trail.number_of(self._at)) is not None:
            self.cursor = number
            trail.fanout.join(self)
            self._joined = True
        else:
            watch.wait(self)
        if self._suspended:  # the session may have been asked to end meanwhile: it looks again
            asyncio.get_running_loop().call_soon(client.wake)

    def leave(self, client: Follower) -> None:  # noqa: ARG002
        self.watch.forget(self)
        if self._joined and self.watch.trail is not None:
            self.watch.trail.fanout.leave(self)
            self._settle()

    async def settled(self) -> None:
        if self.watch.trail is not None:
            await self.watch.trail.fanout.settled()

    @property
    def flushed_at(self) -> float:
        return self.watch.trail.fanout.flushed_at if self._joined and self.watch.trail is not None else 0.0

    @property
    def writing(self) -> bool:
        return self._joined and self.watch.trail is not None and self.watch.trail.fanout.writing

    def to_transport(self, client: Follower) -> None:  # noqa: ARG002
        if self._joined and self.watch.trail is not None:
            self.watch.trail.fanout.to_transport(self)

    def note_delivery(self, count: int) -> None:  # noqa: ARG002
        """Bytes that a live client gets outside of the fan-out are counted here. Once its own connection is full, it is
        late by itself.
        """
        written, self._written = self._written, []
        now_us = self._now_us() if written else 0
        for _, at in written:
            if at and isinstance(at, BytesAt):
                self._lag.observe(max(now_us - at, 0) / 1e6)
        self._live = self._live and self.outlet.buffered() <= self._limits.pause_bytes

    # ------------------------------------------------------------------ for the fan-out, and for the watch

    @property
    def outlet(self) -> Outlet:
        return self.client.outlet

    def wake(self) -> None:
        """The fan-out gives the client back."""
        self._settle()
        # One that refused a piece is slow itself: what it gets late now is not the service's lag.
        self._live = self.watch.trail is not None and self.cursor >= self.watch.trail.fanout.sent
        self.client.wake()

    def hear(self) -> None:
        self._known_us = self._known_us or self._now_us()
        self.client.wake()

    def ask_to_end(self, reason: DisconnectReason, *, among: int = 1) -> None:
        self.client.ask_to_end(reason, among=among)

    # ------------------------------------------------------------------ inside

    def _settle(self) -> None:
        self._joined = False
        if self.watch.trail is not None:
            self._at = self.watch.trail.id_of(self.cursor)

    def _piece(self, cursor: int) -> Piece:
        frames = fitting(self._rest, self._limits.slice_bytes)
        self._rest = self._rest[len(frames) :]
        count = frames.count(FRAME_END)
        self._written, self._times = split(self._times, count) if self._rest else (self._times, [])
        self._at = last_id_in(frames)
        return CountedPiece(cursor + 1, cursor + count, frames)
