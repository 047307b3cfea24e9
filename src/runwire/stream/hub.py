"""The shared tail of one run: what came from the bus or from PostgreSQL, encoded once, written to every client.

A hub is a state machine without tasks or timers of its own. What it is told (`deliver` by the bus, `learn` and `take`
from PostgreSQL) it puts in order; what it lacks it asks for by `on_behind` and `check_at`, which the process-wide
CatchUp serves. So every interleaving can be stepped through.

It knows three seqs: `sent` <= `tail` <= `known`. Followers have everything up to `sent`, but for the piece under way,
which some of them still wait for; the frames up to `tail` go out with the next; events up to `known` exist,
and what of them is published but not here yet is read again until it is. The order of attaching is `subscribe`,
`locate`, then slices: a message that comes in between only raises `published`, and the events are read from PostgreSQL.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

from runwire.bus import BusReader, Published
from runwire.clock import monotonic
from runwire.errors import CursorPastTail
from runwire.model.event import EventType, StoredEvent
from runwire.stream.deliveries import Deliveries, Times, split
from runwire.stream.frames import Frames
from runwire.stream.limits import PAGE_EVENTS_MAX, Limits
from runwire.stream.outlet import Outlet, Socket
from runwire.stream.reader import LogReader, Position, Stretch
from runwire.stream.ring import Ring, Slice
from runwire.stream.turns import Turns
from runwire.stream.writes import Writes
from runwire.telemetry.metrics import StreamMetrics
from runwire.telemetry.spans import NO_SPANS, Spans

RECHECK_FIRST_S: Final = 0.1
RECHECK_MAX_S: Final = 1.0
BEHIND_MAX: Final = 16
"""So many rings full of frames may wait for followers, who then read from PostgreSQL instead, each at its own speed."""
BY_TRANSPORT: Final = 4
"""A write by a transport takes the event loop as long as so many of a turn may take it."""
_TERMINAL: Final = EventType.RUN_FINISHED.value
SLICES_KEPT: Final = 8
"""Slices of the ring kept between two flushes, for clients that come in herds to the same few places."""


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended. Its terminal event is `last_seq`."""

    state: str
    last_seq: int


class Follower(Protocol):
    """A client that is handed to the hub while it is at the hub's tail."""

    cursor: int

    @property
    def outlet(self) -> Outlet: ...

    def wake(self) -> None:
        """The hub gave it back, with its cursor: it goes on by itself."""


class Hub:
    """Enters a run's subscription and keeps its tail. One event loop's, like everything here."""

    __slots__ = (
        "_ahead",
        "_bus",
        "_by_transport",
        "_following",
        "_frames",
        "_last_batch",
        "_limits",
        "_metrics",
        "_on_behind",
        "_piece",
        "_reader",
        "_reads",
        "_recheck_s",
        "_ring",
        "_saw_terminal",
        "_slices",
        "_spans",
        "_subscription",
        "_turns",
        "_undelivered",
        "_unsent_times",
        "_waiting",
        "_written",
        "check_at",
        "end",
        "flush_due",
        "flushed_at",
        "lost",
        "position",
        "published",
        "run_id",
        "sent",
    )

    def __init__(
        self,
        run_id: str,
        *,
        bus: BusReader,
        reader: LogReader,
        metrics: StreamMetrics,
        limits: Limits,
        on_behind: Callable[[Hub], None],
        spans: Spans = NO_SPANS,
        turns: Turns | None = None,
    ) -> None:
        """`on_behind` is called when `stretch_behind` or `wants_end` has something to be served at once.

        `turns` are shared with the other hubs of the process.
        """
        self.run_id = run_id
        self.position: Position | None = None
        self.published = 0
        self.sent = 0
        self.end: End | None = None
        self.check_at = inf
        """When (monotonic) to read the run's position again: soon while something known is missing, else at silence."""
        self.flushed_at = monotonic()
        self.lost = False
        self.flush_due = False
        """It has something to write, and takes its turn."""
        self._bus = bus
        self._reader = reader
        self._limits = limits
        self._on_behind = on_behind
        self._spans = spans
        self._undelivered = True
        self._frames = Frames(run_id)
        self._ring = Ring(limits.ring_events)
        self._subscription: AbstractAsyncContextManager[None] | None = None
        self._recheck_s = RECHECK_FIRST_S
        self._saw_terminal = False
        self._unsent_times: list[Times] = []
        self._slices: dict[int, Slice] = {}
        self._reads: dict[int, asyncio.Task[Slice]] = {}
        self._following: dict[Follower, Socket | None] = {}
        """By the socket that is written to, or None: a client's own transport is, which touches far more memory."""
        self._ahead: dict[Follower, None] = {}
        self._piece: Slice | None = None
        self._waiting: dict[Follower, Socket | None] = {}
        self._by_transport = 0
        """How many of both have no socket here."""
        self._written = 0
        self._last_batch = 0
        self._metrics = metrics
        self._turns = turns or Turns(Writes(Deliveries(metrics)))

    # ------------------------------------------------------------------ attaching, in this order

    async def subscribe(self) -> None:
        """From here on the bus calls `deliver`."""
        subscription = self._bus.subscribe(self.run_id, self.deliver)
        await subscription.__aenter__()
        self._subscription = subscription

    async def locate(self) -> None:
        """Reads where the run is. Raises RunNotFound."""
        self.learn(await self._reader.position(self.run_id))

    async def admit(self, cursor: int) -> Slice | End | None:
        """What a client at `cursor` gets first; the End when it has all of a closed run; None when it is at the tail.

        Raises CursorPastTail, and CursorExpired when the events after its cursor are gone.
        """
        if cursor > self.known:
            await self.locate()  # it may come from a replica that heard of more
        if cursor > self.known:
            raise CursorPastTail(self.run_id, cursor=cursor, last_seq=self.known)
        if self.end is not None and cursor >= self.end.last_seq:
            return self.end
        return await self.slice_after(cursor)

    @property
    def ring_bytes(self) -> int:
        """Bytes of frames that are kept for clients to come."""
        return self._ring.bytes

    def rest(self) -> None:
        """The last client has left: lets go of what only a herd of them shares."""
        self._slices.clear()

    def shed(self) -> None:
        """Lets go of every frame that followers already have. Clients further back read from PostgreSQL."""
        self._slices.clear()
        self._ring.shed(keep=max(self._ring.tail - self.sent, 0))

    async def aclose(self) -> None:
        """Leaves the bus. Clients must have left before."""
        for read in tuple(self._reads.values()):
            read.cancel()
        await asyncio.gather(*self._reads.values(), return_exceptions=True)
        if self._subscription is not None:
            await self._subscription.__aexit__(None, None, None)

    # ------------------------------------------------------------------ what is known

    @property
    def traceparent(self) -> str | None:
        """The run's, whether it is sampled or not."""
        return self.position.traceparent if self.position is not None else None

    @property
    def tail(self) -> int:
        return self._ring.tail

    @property
    def known(self) -> int:
        """The highest seq known to exist, published or not."""
        return max(self.published, self.position.last_seq if self.position else 0)

    @property
    def stretch_behind(self) -> Stretch | None:
        """Published events that are not here yet: to be read from PostgreSQL and given to `take`."""
        if self.position is None or self.tail >= self.published:
            return None
        return Stretch(self.run_id, self.position.run_day, self.tail, self.published)

    @property
    def is_missing_some(self) -> bool:
        """It knows of something that it does not have."""
        tail = self._ring.tail
        if tail < self.published or (self._saw_terminal and self.end is None):
            return True
        return self.position is not None and tail < self.position.last_seq

    @property
    def wants_end(self) -> bool:
        """The terminal event is here, but not how the run ended: give its position to `learn`."""
        return self._saw_terminal and self.end is None

    def ended_for(self, cursor: int) -> End | None:
        """The End, for a client that has every event of a closed run."""
        return self.end if self.end is not None and cursor >= self.end.last_seq else None

    # ------------------------------------------------------------------ what it is told

    def deliver(self, message: Published) -> None:
        """Takes a message of the bus: new events into the ring, repeats nowhere, what is missing onto the list."""
        position, tail = self.position, self._ring.tail
        if position is None:
            self.published = max(self.published, message.last_seq)
            return
        events = _carried(message)
        if message.outcome is not None and self.end is None:
            self.end = End(message.outcome, message.last_seq)
            self._release_at_end()  # the terminal event may have come before
        if events and message.first_seq == tail + 1 and self.published == tail:  # as it nearly always is
            self.published = message.last_seq
            self._append(events)
        elif message.last_seq <= tail:
            self._metrics.sse_duplicates_dropped.inc(message.last_seq - message.first_seq + 1)
        else:
            if message.first_seq > self.published + 1:
                self._metrics.sse_gaps_repaired.inc()
            self.published = max(self.published, message.last_seq)
            repeated = tail + 1 - message.first_seq
            if repeated > 0:
                self._metrics.sse_duplicates_dropped.inc(repeated)
            if repeated >= 0 and events:
                self._append(events[repeated:] if repeated else events)
            if self._ring.tail < self.published:
                self._on_behind(self)
        self._recheck_s = RECHECK_FIRST_S
        self._plan_check()

    def learn(self, position: Position, *, after_silence: bool = False) -> None:
        """Takes where the run is by PostgreSQL. `after_silence`: what is new by it, the bus has lost."""
        if self.position is None:
            self._ring = Ring(self._limits.ring_events, tail=position.published)
            self.sent = position.published
        elif after_silence and position.published > self.published:
            self._metrics.sse_gaps_repaired.inc()
        if self.position is None or position.last_seq >= self.position.last_seq:
            self.position = position
        self.published = max(self.published, position.published)
        if position.closed:
            self.end = End(position.state.value, position.last_seq)
        if self.tail < self.published:
            self._on_behind(self)
        self._plan_check()
        self._release_at_end()

    def take(self, events: Sequence[StoredEvent]) -> None:
        """Takes events read for `stretch_behind`, as far as they follow each other without a hole.

        Those that came by the bus meanwhile are passed over.
        """
        tail = self.tail
        fresh = [event for event in events if event.seq > tail]
        if fresh and fresh[0].seq == tail + 1 and _dense(fresh):
            self._recheck_s = RECHECK_FIRST_S
            self._append(fresh)
            if self.tail < self.published:
                self._on_behind(self)
        self._plan_check()

    def lose(self) -> None:
        """Takes that the run is no longer there."""
        self.lost = True
        self.check_at = inf

    def put_off(self) -> None:
        """A read failed or found nothing new: the next is due later, up to a second apart."""
        self.check_at = monotonic() + self._recheck_s
        self._recheck_s = min(self._recheck_s * 2, RECHECK_MAX_S)

    def _plan_check(self) -> None:
        if self.end is not None and self._ring.tail >= self.end.last_seq:
            self.check_at = inf
        elif self.is_missing_some:
            self.put_off()
        else:
            self._recheck_s = RECHECK_FIRST_S
            self.check_at = monotonic() + self._limits.silence_s

    def _append(self, events: Sequence[StoredEvent]) -> None:
        first, last = events[0], events[-1]
        self._ring.extend(first.seq, last.seq, self._frames.of(events))
        if first.ts_us == last.ts_us:  # as those of one append are
            self._unsent_times.append((len(events), last.ts_us))
        else:
            self._unsent_times += [(1, event.ts_us) for event in events]
        if last.type == _TERMINAL:
            self._saw_terminal = True
            if self.end is None:
                self._on_behind(self)
        if not self.flush_due:
            self.flush_due = True
            self._turns.take(self)

    # ------------------------------------------------------------------ what it gives

    async def slice_after(self, cursor: int) -> Slice | None:
        """The next frames for a client at `cursor`, up to what followers have; None when it is there.

        Does not suspend when the ring has them. Else one read serves all who ask for the same place meanwhile.
        Raises CursorExpired and DatabaseUnavailable.
        """
        if cursor >= self.sent:
            return None
        if self._ring.reaches(cursor):
            piece = self._slices.get(cursor)
            if piece is None:
                if len(self._slices) >= SLICES_KEPT:
                    self._slices.clear()
                upto = min(self.sent, cursor + PAGE_EVENTS_MAX)
                piece = self._ring.slice(cursor, upto=upto, most_bytes=self._limits.slice_bytes)
                self._slices[cursor] = piece
            return piece
        read = self._reads.get(cursor)
        if read is None:
            read = asyncio.create_task(self._read_page(cursor, upto=self.sent), name=f"page of {self.run_id}")
            self._reads[cursor] = read
            read.add_done_callback(lambda _read: self._reads.pop(cursor))
        return await asyncio.shield(read)

    async def _read_page(self, after: int, *, upto: int) -> Slice:
        assert self.position is not None  # noqa: S101  # nobody is admitted before
        stretch = Stretch(self.run_id, self.position.run_day, after, upto)
        events = await self._reader.events(stretch, limit=PAGE_EVENTS_MAX)
        frames = self._frames.of(events)
        self._ring.prepend(events[0].seq, events[-1].seq, frames)
        return Slice.fitting(events[0].seq, frames, self._limits.slice_bytes)

    def follow(self, client: Follower) -> None:
        """Takes over a client that `slice_after` has nothing for: it gets every flush, until `wake`.

        A client ahead of the hub (it heard of an event before a crash that the publisher has yet to repeat) waits
        until the hub has passed it.
        """
        if client.cursor < self.sent:
            raise AssertionError(f"a client at {client.cursor} cannot follow a hub at {self.sent}")
        if client.cursor > self.sent:
            self._ahead[client] = None
        else:
            self._following[client] = None  # what it has written by itself may still be buffered
            self._by_transport += 1

    def unfollow(self, client: Follower) -> None:
        """Gives a client back, its cursor set; does nothing when it is not the hub's.

        What it has by its cursor may still be under way: wait for `written` before it is written to.
        """
        if client in self._following:
            self._by_transport -= self._following.pop(client) is None
            client.cursor = self.sent
        elif self._piece is not None and client in self._waiting:
            self._by_transport -= self._waiting.pop(client) is None
            client.cursor = self._piece.first - 1
        elif client in self._ahead:
            del self._ahead[client]

    async def written(self) -> None:
        """Returns when those that were followers have what their cursors say, or their transports have it."""
        await self._turns.settled()

    @property
    def writing(self) -> bool:
        """Whether something is under way to its followers: then nobody else may write to them."""
        return self._turns.ended < self._last_batch

    def _leave_followers_to_themselves(self) -> None:
        """For when more comes than can be written to them: what waits for them here would grow for as long."""
        for client in tuple(self._following):
            self.unfollow(client)
            client.wake()
        self._unsent_times.clear()
        self.sent = self._ring.tail

    def flush(self, at_most: int, writes: Writes) -> int:
        """Writes what is new to `at_most` followers, in one piece each; returns how many had their turn.

        Who is written to by its transport counts as BY_TRANSPORT of them. Those that cannot take it go on by
        themselves. Whose socket can be written to are added to `writes`.
        """
        piece = self._piece or self._next_piece()
        if self._by_transport or len(self._waiting) > at_most:
            clients, left = {}, at_most
            while self._waiting and left > 0:
                client, socket = self._waiting.popitem()
                clients[client] = socket
                left -= 1 if socket is not None else BY_TRANSPORT
        else:
            clients, left = self._waiting, at_most - len(self._waiting)
            self._waiting = {}
        for client in self._write(piece, clients, writes):
            self._by_transport -= clients.pop(client) is None
            client.cursor = piece.first - 1
            client.wake()
        self._written += len(clients)
        if self._following:
            self._following |= clients
        else:
            self._following = clients
        if not self._waiting:
            self._end_piece(piece, writes)
        return at_most - left

    def _write(self, piece: Slice, clients: dict[Follower, Socket | None], writes: Writes) -> list[Follower]:
        """Writes the piece to each of them; returns those that did not take it."""
        refused, direct = self._write_by_transports(piece, clients) if self._by_transport else ([], clients)
        if direct:
            try:
                writes.add(self, piece.bytes(chunked=True), direct)  # type: ignore[arg-type]  # none of them is None
                self._last_batch = writes.gathering
            except Exception:  # noqa: BLE001  # memory is short: they go on by themselves
                refused += direct
        return refused

    def _write_by_transports(
        self, piece: Slice, clients: dict[Follower, Socket | None]
    ) -> tuple[list[Follower], dict[Follower, Socket | None]]:
        """Writes the piece to those without a socket, but for who can be written to past its transport again.

        Returns those that did not take it, and those that are still to be written to by their sockets.
        """
        refused: list[Follower] = []
        pause_bytes = self._limits.pause_bytes
        for client in [client for client, socket in clients.items() if socket is None]:
            outlet = client.outlet
            try:
                buffered = outlet.buffered()
                if buffered > pause_bytes or outlet.closing():
                    refused.append(client)
                elif buffered or outlet.socket is None:
                    outlet.write(piece.bytes(chunked=outlet.chunked))
                else:
                    clients[client] = outlet.socket.reopen()
                    self._by_transport -= 1
            except Exception:  # noqa: BLE001  # one client's broken transport is not the other clients' business
                refused.append(client)
        return refused, {client: socket for client, socket in clients.items() if socket is not None}

    def fell_short(self, client: Follower, rest: bytes) -> None:
        """What a client's socket did not take goes by its transport, which meets an error again and deals with it."""
        self.goes_by_transport(client)
        with contextlib.suppress(Exception):  # as in _write_by_transports
            client.outlet.write(rest)

    def goes_by_transport(self, client: Follower) -> None:
        """A follower's transport has something to write, which comes first."""
        for clients in (self._following, self._waiting):
            if client in clients and clients[client] is not None:
                clients[client] = None
                self._by_transport += 1

    def _next_piece(self) -> Slice:
        """Takes what is new, as much as may be written at once. From here on it counts as sent."""
        piece = self._piece = self._ring.slice(self.sent, upto=self._ring.tail, most_bytes=self._limits.slice_bytes)
        self._waiting, self._following = self._following, self._waiting
        self.sent = piece.last
        self._slices.clear()
        return piece

    def _end_piece(self, piece: Slice, writes: Writes) -> None:
        ring = self._ring
        left = ring.tail - self.sent
        if left:
            times, self._unsent_times = split(self._unsent_times, piece.last - piece.first + 1)
        else:
            times, self._unsent_times = self._unsent_times, []
        if self._written:
            self.note_delivery(piece)
            writes.deliver(times, clients=self._written)
        self.flushed_at = monotonic()
        self._piece, self._written = None, 0
        if left > BEHIND_MAX * ring.capacity:
            self._leave_followers_to_themselves()
            left = 0
        self.flush_due = left > 0
        ring.trim(keep=left)
        if self._ahead:
            for client in [client for client in self._ahead if client.cursor <= self.sent]:
                self.unfollow(client)
                client.wake()
        self._release_at_end()

    def note_delivery(self, piece: Slice) -> None:
        """The first delivery of a run by this process has a span: with it a trace reaches a client."""
        if self._undelivered:
            self._undelivered = False
            with self._spans.process_events(self.traceparent, run_id=self.run_id, count=piece.last - piece.first + 1):
                pass

    def _release_at_end(self) -> None:
        if self.end is not None and self.sent >= self.end.last_seq:
            for client in (*self._following, *self._ahead):
                self.unfollow(client)
                client.wake()


def _carried(message: Published) -> Sequence[StoredEvent]:
    """The events of a message that carries all it speaks of; else none, and they are read from PostgreSQL."""
    events = message.events
    if not events:
        return ()
    first, last = events[0].seq, events[-1].seq
    whole = first == message.first_seq and last == message.last_seq and last - first + 1 == len(events)
    return events if whole else ()


def _dense(events: Sequence[StoredEvent]) -> bool:
    return events[-1].seq - events[0].seq + 1 == len(events)
