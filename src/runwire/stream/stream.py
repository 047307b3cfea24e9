"""One open stream: a loop that brings its client to the tail of the run and then leaves it to the hub."""

from __future__ import annotations

import asyncio
import random
from contextlib import AbstractContextManager

from runwire.clock import monotonic
from runwire.errors import ArchiveUnavailable, CursorExpired, DatabaseFailed
from runwire.stream.hub import Hub
from runwire.stream.limits import Limits
from runwire.stream.outlet import Outlet
from runwire.stream.pacing import Pacing
from runwire.stream.ring import BrokenSequence, Slice
from runwire.stream.sse import HEARTBEAT, chunk, end_frame, jittered_retry_ms, prelude, resumable_end
from runwire.telemetry.metrics import DeliveryPath, DisconnectReason, StreamMetrics
from runwire.telemetry.spans import NO_SPANS, Spans

_HEARTBEAT_CHUNK = chunk(HEARTBEAT)


class Stream:
    """What `Hubs.attach` gives. Send `prelude` as the first of the body, then `run`."""

    __slots__ = (
        "_asked",
        "_backfilled",
        "_ended_with",
        "_first",
        "_hub",
        "_limits",
        "_metrics",
        "_opened_at",
        "_pacing",
        "_parked",
        "_rotate_at",
        "_spans",
        "_stored_part",
        "_with_hub",
        "_wrote_at",
        "cursor",
        "outlet",
        "reason",
    )

    def __init__(
        self,
        hub: Hub,
        *,
        cursor: int,
        pacing: Pacing,
        metrics: StreamMetrics,
        limits: Limits,
        spans: Spans = NO_SPANS,
    ) -> None:
        self.cursor = cursor
        """The last seq written. While the hub has this stream, the hub's `sent` is."""
        self.outlet: Outlet
        self.reason = DisconnectReason.CLIENT
        """Why it ended; of a stream that never ran, that its client went away."""
        self._hub = hub
        self._pacing = pacing
        self._metrics = metrics
        self._limits = limits
        self._spans = spans
        self._stored_part: AbstractContextManager[object] | None = None
        self._opened_at = self._wrote_at = monotonic()
        self._rotate_at = self._opened_at + limits.max_age_s * random.uniform(0.9, 1.1)  # noqa: S311  # spreads load
        self._first: Slice | None = None
        self._asked: DisconnectReason | None = None
        self._ended_with = 1
        self._parked: asyncio.Future[None] | None = None
        self._with_hub = False
        self._backfilled: int | None = 0

    @property
    def run_id(self) -> str:
        return self._hub.run_id

    @property
    def prelude(self) -> bytes:
        """The first bytes of the body, without chunk framing: `retry:`, and the client's own cursor back.

        To be sent before `run`.
        """
        return prelude(self.cursor, retry_ms=self._limits.retry_ms)

    def rotate_within(self, seconds: float) -> None:
        """Has the stream rotated no later: what let its client in does not hold for longer."""
        self._rotate_at = min(self._rotate_at, monotonic() + seconds)

    def start_with(self, piece: Slice | None) -> None:
        """What was read while attaching, so that a cursor that cannot be served is refused before any header."""
        self._first = piece

    async def run(self, outlet: Outlet) -> DisconnectReason:
        """Writes the stream until it is over and returns why; the last bytes, but for a `client` that left, say so.

        The caller ends the body. After `slow` some of the bytes may never leave: it aborts a connection that has not
        taken them within a second or two. Cancel it when the connection is lost.
        """
        self.outlet = outlet
        self._wrote_at = monotonic()
        hub = self._hub
        try:
            self._stored_part = self._spans.backfill(hub.traceparent, run_id=hub.run_id, after=self.cursor)
            self._stored_part.__enter__()
            self.reason = await self._until_over()
        except (ArchiveUnavailable, DatabaseFailed, CursorExpired):
            self.reason = DisconnectReason.ERROR
        except Exception:
            self.reason = DisconnectReason.ERROR
            raise
        finally:
            self._end_stored_part()
            self._hub.unfollow(self)
            self._pacing.forget(self)
        if not outlet.closing() and self.reason is not DisconnectReason.CLIENT:
            self._write(self._last_words())
        return self.reason

    def ask_to_end(self, reason: DisconnectReason, *, among: int = 1) -> None:
        """Ends the stream soon, as one of `among` that are ended together."""
        self._asked = reason
        self._ended_with = among
        self.wake()

    def wake(self) -> None:
        """Lets the loop look again; the hub calls it when it gives the stream back."""
        if self._parked is not None and not self._parked.done():
            self._parked.set_result(None)

    def tick(self, now: float) -> float:
        """Heartbeat and rotation of a stream at the tail. Returns the seconds since its last write."""
        last = self._wrote_at
        if self._with_hub:
            last = max(last, self._hub.flushed_at)
            if self.outlet.closing():
                self.ask_to_end(DisconnectReason.CLIENT)
            elif now >= self._rotate_at:
                self.ask_to_end(DisconnectReason.ROTATE)
            elif now - last >= self._limits.heartbeat_s and not self._hub.writing:
                self._write(_HEARTBEAT_CHUNK if self.outlet.chunked else HEARTBEAT, framed=True)
                self._hub.goes_by_transport(self)
                last = now
        return now - last

    # ------------------------------------------------------------------ the loop

    async def _until_over(self) -> DisconnectReason:
        hub, outlet = self._hub, self.outlet
        while True:
            if self._asked is not None:
                return self._asked
            if outlet.closing():
                return DisconnectReason.CLIENT
            if outlet.buffered() > self._limits.pause_bytes:
                await asyncio.sleep(0)  # the event loop writes at the end of its turn: the client may well take it all
                if outlet.buffered() > self._limits.pause_bytes:
                    self._pacing.wait_for(self)
                    await self._parking()
                continue
            piece = self._first or await hub.slice_after(self.cursor)
            self._first = None
            if piece is not None:
                self._send(piece)
            elif hub.ended_for(self.cursor):
                self._note_backfill()
                return DisconnectReason.TERMINAL
            else:
                self._note_backfill()
                # Nothing was awaited since the hub said that it has no more: what comes now comes by the hub.
                hub.follow(self)
                self._with_hub = True
                await self._parking()
                self._with_hub = False
                hub.unfollow(self)  # who was asked to end still follows, and would get more meanwhile
                await hub.written()

    def _parking(self) -> asyncio.Future[None]:
        """What to await until `wake`. No coroutine: it would be kept for as long as the stream has nothing to do."""
        self._parked = asyncio.get_running_loop().create_future()
        return self._parked

    def _send(self, piece: Slice) -> None:
        if piece.first != self.cursor + 1:
            raise BrokenSequence(expected=self.cursor + 1, actual=piece.first)
        self._write(piece.bytes(chunked=self.outlet.chunked), framed=True)
        self.cursor = piece.last
        self._hub.note_delivery(piece)
        count = piece.last - piece.first + 1
        self._metrics.events_delivered[DeliveryPath.BACKFILL].inc(count)
        if self._backfilled is not None:
            self._backfilled += count

    def _note_backfill(self) -> None:
        """Once, when the stream first reached the tail: catching up later on is not its stored part."""
        if self._backfilled is not None:
            self._end_stored_part()
            self._metrics.sse_backfill.observe(self._backfilled)
            self._metrics.sse_backfill_duration.observe(monotonic() - self._opened_at)
            self._backfilled = None

    def _end_stored_part(self) -> None:
        part, self._stored_part = self._stored_part, None
        if part is not None:
            part.__exit__(None, None, None)

    def _last_words(self) -> bytes:
        end = self._hub.end
        if self.reason is DisconnectReason.TERMINAL and end is not None:
            return end_frame(self._hub.run_id, state=end.state, last_seq=end.last_seq)
        retry_ms = jittered_retry_ms(self._limits.retry_ms, streams=self._ended_with)
        return resumable_end(self.reason.value, retry_ms=retry_ms)

    def _write(self, data: bytes, *, framed: bool = False) -> None:
        self.outlet.write(data if framed or not self.outlet.chunked else chunk(data))
        self._wrote_at = monotonic()
