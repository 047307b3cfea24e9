"""One watched run: a tail and a fan-out, however many clients watch it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

from runwire.bus import BusReader, Published
from runwire.errors import CursorPastTail
from runwire.model.event import StoredEvent
from runwire.stream.catch_up import CatchUp
from runwire.stream.fanout import Fanout, Follower, Scheduler
from runwire.stream.limits import PAGE_EVENTS_MAX, StreamLimits
from runwire.stream.log import LogReader, Position, Stretch
from runwire.stream.piece import Piece
from runwire.stream.tail import End, Tail
from runwire.telemetry.metrics import DeliveryPath, DisconnectReason, StreamMetrics
from runwire.telemetry.spans import NO_SPANS, Spans

PIECES_KEPT: Final = 8
"""Pieces of the ring kept between two writes, for clients that come in herds to the same few places."""


class Holder(Protocol):
    """A stream, or a part of one, that needs the watch."""

    def ask_to_end(self, reason: DisconnectReason, *, among: int = 1) -> None: ...


@dataclass(frozen=True, slots=True)
class WatchParts:
    """Everything that the watches of a process share."""

    bus: BusReader
    reader: LogReader
    catch_up: CatchUp
    scheduler: Scheduler
    limits: StreamLimits
    metrics: StreamMetrics
    spans: Spans = NO_SPANS


class Watch:
    """One watched run: leads what its tail puts in order to its fan-out. It is the live source of sessions.

    The order of opening is `subscribe`, `locate`, then pages: see Tail.
    """

    __slots__ = (
        "_parts",
        "_pieces",
        "_pieces_upto",
        "_reads",
        "_subscription",
        "fanout",
        "idle_since",
        "opened",
        "ring_bytes",
        "sessions",
        "tail",
    )
    path = DeliveryPath.BACKFILL

    def __init__(self, run_id: str, parts: WatchParts) -> None:
        self.tail = Tail(run_id, limits=parts.limits, metrics=parts.metrics)
        self.fanout: Fanout
        """From the first `learn` on: it begins at the run's published position."""
        self.opened: asyncio.Task[None]
        self.sessions: dict[Holder, None] = {}
        self.idle_since = inf
        self.ring_bytes = 0
        """As last counted by Watches."""
        self._parts = parts
        self._subscription: AbstractAsyncContextManager[None] | None = None
        self._pieces: dict[int, Piece] | None = None
        self._pieces_upto = 0
        self._reads: dict[int, asyncio.Task[Piece]] | None = None

    # ------------------------------------------------------------------ opening, in this order

    async def subscribe(self) -> None:
        """From here on the bus calls `deliver`."""
        subscription = self._parts.bus.subscribe(self.run_id, self.deliver)
        await subscription.__aenter__()
        self._subscription = subscription

    async def locate(self) -> None:
        """Reads the run's position. Raises RunNotFound."""
        self.learn(await self._parts.reader.position(self.run_id))

    async def admit(self, cursor: int) -> Piece | End | None:
        """The first piece for a client at `cursor`, the End if it has all of a closed run, None if it has caught up.

        Raises CursorPastTail, and CursorExpired when the events after its cursor are gone.
        """
        tail = self.tail
        if cursor > tail.known:
            await self.locate()  # the client may come from a replica that heard of more
        if cursor > tail.known:
            raise CursorPastTail(self.run_id, cursor=cursor, last_seq=tail.known)
        return tail.ended_for(cursor) or await self.piece_after(cursor)

    def rest(self) -> None:
        """The last client has left: drops pieces that only a herd of clients shares."""
        self._pieces = None

    def shed(self) -> None:
        """Drops every frame that followers already have. Clients further back read from PostgreSQL."""
        self._pieces = None
        if self.tail.position is not None:
            self.tail.ring.shed(keep=max(self.tail.last - self.fanout.sent, 0))

    async def aclose(self) -> None:
        """Leaves the bus. Clients must have left before. Two loops may close a watch at once: it leaves once."""
        reads = tuple((self._reads or {}).values())
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.__aexit__(None, None, None)

    # ------------------------------------------------------------------ from the tail to the fan-out

    def deliver(self, message: Published) -> None:
        """Takes a message of the bus."""
        self._forward(self.tail.deliver(message))
        if message.outcome is not None and self.tail.end is not None:
            self.fanout.end_at(self.tail.end.last_seq)

    def take(self, events: Sequence[StoredEvent]) -> None:
        """Takes events that were read because the tail lacked them."""
        self._forward(self.tail.take(events))

    def learn(self, position: Position, *, after_silence: bool = False) -> None:
        """Takes the run's position. With `after_silence`, the bus has lost whatever is new by it."""
        tail, parts = self.tail, self._parts
        is_first = tail.position is None
        tail.learn(position, after_silence=after_silence)
        if is_first:
            self.fanout = Fanout(
                self.run_id,
                sent=position.published,
                scheduler=parts.scheduler,
                limits=parts.limits,
                spans=parts.spans,
                traceparent=position.traceparent,
            )
        self._forward(None)
        if tail.end is not None:
            self.fanout.end_at(tail.end.last_seq)

    def _forward(self, piece: Piece | None) -> None:
        if piece is not None:
            if self._pieces:
                self._pieces.clear()
            self.fanout.send(piece)
        if self.tail.wants_read:
            self.tail.wants_read = False
            self._parts.catch_up.ask(self)

    # ------------------------------------------------------------------ the source of sessions

    @property
    def run_id(self) -> str:
        return self.tail.run_id

    @property
    def traceparent(self) -> str | None:
        """The run's, whether it is sampled or not."""
        return self.tail.position.traceparent if self.tail.position is not None else None

    def stored_part(self, *, after: int) -> AbstractContextManager[object] | None:
        return self._parts.spans.backfill(self.traceparent, run_id=self.run_id, after=after)

    async def piece_after(self, cursor: int) -> Piece | None:
        """The next frames for a client at `cursor`, up to what followers have; None when it has caught up.

        Does not suspend when the ring has them. Else one read serves all clients that ask for the same place meanwhile.
        Raises CursorExpired and DatabaseUnavailable.
        """
        sent = self.fanout.sent
        if cursor >= sent:
            return None
        if self.tail.ring.reaches(cursor):
            return self._from_ring(cursor, sent)
        if self._reads is None:
            self._reads = {}
        reads = self._reads
        read = reads.get(cursor)
        if read is None:
            read = asyncio.create_task(self._read_page(cursor, upto=sent), name=f"page of {self.run_id}")
            reads[cursor] = read
            read.add_done_callback(lambda _read: reads.pop(cursor))
        return await asyncio.shield(read)

    def _from_ring(self, cursor: int, sent: int) -> Piece:
        pieces = self._pieces
        if pieces is None or self._pieces_upto != sent or len(pieces) >= PIECES_KEPT:
            self._pieces = pieces = {}
            self._pieces_upto = sent
        piece = pieces.get(cursor)
        if piece is None:
            upto = min(sent, cursor + PAGE_EVENTS_MAX)
            piece = self.tail.ring.slice(cursor, upto=upto, most_bytes=self._parts.limits.slice_bytes)
            pieces[cursor] = piece
        return piece

    async def _read_page(self, after: int, *, upto: int) -> Piece:
        position = self.tail.position
        assert position is not None  # noqa: S101  # no client is admitted before
        stretch = Stretch(self.run_id, position.run_day, after, upto)
        events = await self._parts.reader.events(stretch, limit=PAGE_EVENTS_MAX)
        return Piece.fitting(events[0].seq, self.tail.keep_page(events), self._parts.limits.slice_bytes)

    def ended_for(self, cursor: int) -> End | None:
        return self.tail.ended_for(cursor)

    def join(self, client: Follower) -> None:
        self.fanout.join(client)

    def leave(self, client: Follower) -> None:
        self.fanout.leave(client)

    async def settled(self) -> None:
        await self.fanout.settled()

    @property
    def flushed_at(self) -> float:
        return self.fanout.flushed_at

    @property
    def writing(self) -> bool:
        return self.fanout.writing

    def to_transport(self, client: Follower) -> None:
        self.fanout.to_transport(client)

    def note_delivery(self, count: int) -> None:
        self.fanout.note_delivery(count)
