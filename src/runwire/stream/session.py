"""A session is one client's loop: it brings the client forward, piece by piece, until the stream is over.

Where the pieces come from is its source: a watched run (live) or a closed run in its own time (replay). The session
does everything else, once for both: framing, full buffers, heartbeats, rotation, drain, and the last words.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from typing import Protocol

from runwire.clock import monotonic
from runwire.errors import ArchiveUnavailable, ArtifactErased, ContentUnavailable, CursorExpired, DatabaseFailed
from runwire.stream.client_loop import ClientLoop
from runwire.stream.fanout import Follower, Outlet, Pacing
from runwire.stream.limits import StreamLimits
from runwire.stream.piece import BrokenSequence, Piece
from runwire.stream.sse import HEARTBEAT, chunk, end_frame, prelude
from runwire.stream.tail import End
from runwire.telemetry.metrics import DeliveryPath, DisconnectReason, StreamKind, StreamMetrics

_HEARTBEAT_CHUNK = chunk(HEARTBEAT)


class Source(Protocol):
    """The pieces of one run, for one client or many."""

    @property
    def run_id(self) -> str: ...

    @property
    def path(self) -> DeliveryPath:
        """How pieces from `piece_after` are counted."""

    def stored_part(self, *, after: int) -> AbstractContextManager[object] | None:
        """Entered for the time until the client has caught up; None where that is not measured."""

    async def piece_after(self, cursor: int) -> Piece | None:
        """The next piece for a client at `cursor`; None, without suspending, when there is none now."""

    def ended_for(self, cursor: int) -> End | None:
        """How the run ended, for a client that has every event of it."""

    def join(self, client: Follower) -> None:
        """Takes a client for which there is no piece now, and wakes it when there is something for it to do.

        The source may write to the client meanwhile, and raises its cursor then.
        """

    def leave(self, client: Follower) -> None:
        """Gives the client back with its cursor set. Does nothing for a client that did not join."""

    async def settled(self) -> None:
        """Returns when nothing is under way to clients that left."""

    @property
    def flushed_at(self) -> float:
        """When (monotonic) the source last wrote to the clients that joined."""

    @property
    def writing(self) -> bool:
        """The source is writing to clients that joined. Nobody else may write to them."""

    def to_transport(self, client: Follower) -> None:
        """The session has written to the transport of a client that joined."""

    def note_delivery(self, count: int) -> None:
        """The session has written a piece of so many events."""


class Session(ClientLoop):
    """One client's stream, from `Streams.attach` or `Streams.replay`. Send `prelude` first, then `run`."""

    __slots__ = (
        "_backfilled",
        "_end",
        "_first",
        "_metrics",
        "_opened_at",
        "_pacing",
        "_source",
        "_stored_part",
        "_wrote_at",
        "cursor",
    )

    def __init__(
        self, source: Source, *, cursor: int, pacing: Pacing, metrics: StreamMetrics, limits: StreamLimits
    ) -> None:
        super().__init__(limits)
        self.cursor = cursor
        """The last seq written. It is out of date while the source has the client."""
        self._source = source
        self._pacing = pacing
        self._metrics = metrics
        self._stored_part: AbstractContextManager[object] | None = None
        self._opened_at = self._wrote_at = monotonic()
        self._first: Piece | None = None
        self._end: End | None = None
        self._backfilled: int | None = 0 if source.path is DeliveryPath.BACKFILL else None

    @property
    def run_id(self) -> str:
        return self._source.run_id

    @property
    def kind(self) -> StreamKind:
        return StreamKind.RUN

    @property
    def prelude(self) -> bytes:
        """The first bytes of the body, without chunk framing: `retry:`, and the client's own cursor back.

        Send it before `run`.
        """
        return prelude(self.cursor, retry_ms=self._limits.retry_ms)

    def start_with(self, piece: Piece | None) -> None:
        """Takes the piece that was read before any header, so that a bad cursor is refused in time."""
        self._first = piece

    async def run(self, outlet: Outlet) -> DisconnectReason:
        """Writes the stream until it is over and returns why. The last bytes say so, except to a client that left.

        The caller ends the body. After `slow` some of the bytes may never leave: abort a connection that has not taken
        them within a second or two. Cancel this when the connection is lost.
        """
        self.outlet = outlet
        self._wrote_at = monotonic()
        try:
            self._begin_stored_part()
            self.reason = await self._until_over()
        except (ArchiveUnavailable, ArtifactErased, ContentUnavailable, DatabaseFailed, CursorExpired):
            self.reason = DisconnectReason.ERROR
        except Exception:
            self.reason = DisconnectReason.ERROR
            raise
        finally:
            self._end_stored_part()
            self._source.leave(self)
            self._pacing.forget(self)
        if not outlet.closing() and self.reason is not DisconnectReason.CLIENT:
            self._write(self._last_words())
        return self.reason

    def tend(self, now: float) -> float:
        """Heartbeat and rotation of a client that waits at its source. Returns the seconds since its last write."""
        last = self._wrote_at
        if self._resting:
            last = max(last, self._source.flushed_at)
            if self.outlet.closing():
                self.ask_to_end(DisconnectReason.CLIENT)
            elif now >= self._rotate_at:
                self.ask_to_end(DisconnectReason.ROTATE)
            elif now - last >= self._limits.heartbeat_s and not self._source.writing:
                self._write(_HEARTBEAT_CHUNK if self.outlet.chunked else HEARTBEAT, framed=True)
                self._source.to_transport(self)
                last = now
        return now - last

    # ------------------------------------------------------------------ the loop

    async def _until_over(self) -> DisconnectReason:
        source, outlet = self._source, self.outlet
        while True:
            if self._asked is not None:
                return self._asked
            if outlet.closing():
                return DisconnectReason.CLIENT
            if outlet.buffered() > self._limits.pause_bytes:
                await asyncio.sleep(0)  # the event loop writes at the end of its tick: the client may well take it all
                if outlet.buffered() > self._limits.pause_bytes:
                    self._pacing.wait_for(self)
                    await self._parking()
                continue
            piece = self._first or await source.piece_after(self.cursor)
            self._first = None
            if piece is not None:
                self._send(piece)
            elif (end := source.ended_for(self.cursor)) is not None:
                self._note_backfill()
                self._end = end
                return DisconnectReason.TERMINAL
            else:
                self._note_backfill()
                # Nothing suspended since the source had no piece: whatever comes now comes to clients that joined.
                source.join(self)
                self._resting = True
                await self._parking()
                self._resting = False
                source.leave(self)  # a session that was asked to end has not left yet, and would get more
                await source.settled()

    def _send(self, piece: Piece) -> None:
        if piece.first != self.cursor + 1:
            raise BrokenSequence(expected=self.cursor + 1, actual=piece.first)
        self._write(piece.bytes(chunked=self.outlet.chunked), framed=True)
        self.cursor = piece.last
        self._source.note_delivery(piece.count)
        self._metrics.events_delivered[self._source.path].inc(piece.count)
        if self._backfilled is not None:
            self._backfilled += piece.count

    def _note_backfill(self) -> None:
        """Once, when the client first caught up: what it misses later is not its stored part."""
        if self._backfilled is not None:
            self._end_stored_part()
            self._metrics.sse_backfill.observe(self._backfilled)
            self._metrics.sse_backfill_duration.observe(monotonic() - self._opened_at)
            self._backfilled = None

    def _begin_stored_part(self) -> None:
        self._stored_part = part = self._source.stored_part(after=self.cursor)
        if part is not None:
            part.__enter__()

    def _end_stored_part(self) -> None:
        part, self._stored_part = self._stored_part, None
        if part is not None:
            part.__exit__(None, None, None)

    def _last_words(self) -> bytes:
        if self.reason is DisconnectReason.TERMINAL and self._end is not None:
            return end_frame(self.run_id, state=self._end.state, last_seq=self._end.last_seq)
        return self._resumable_end()

    def _write(self, data: bytes, *, framed: bool = False) -> None:
        self.outlet.write(data if framed or not self.outlet.chunked else chunk(data))
        self._wrote_at = monotonic()
