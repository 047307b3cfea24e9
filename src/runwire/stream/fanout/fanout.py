"""The fan-out of one run: each piece to every follower, once and in order.

The door is `send`, `join`, `leave` and `idle`. A fan-out knows pieces and followers, and neither bus nor database.
"""

from __future__ import annotations

import contextlib
from typing import Final

from runwire.clock import monotonic
from runwire.stream.fanout.followers import Follower, Followers, Standing
from runwire.stream.fanout.outlet import Socket
from runwire.stream.fanout.scheduler import Slots
from runwire.stream.limits import StreamLimits
from runwire.stream.piece import Piece, cut
from runwire.telemetry.spans import NO_SPANS, Spans

BEHIND_MAX: Final = 16
"""Rings full of events that may be pending. With more, followers read from PostgreSQL, each at its own speed."""
BY_TRANSPORT: Final = 4
"""Slots that a write by a transport uses: it takes the event loop as long as so many writes by sockets."""


class Fanout:
    """Writes pieces to the followers of a run, some of them in each tick. It belongs to one event loop."""

    __slots__ = (
        "_ends_at",
        "_followers",
        "_last_batch",
        "_limits",
        "_pending",
        "_piece",
        "_scheduler",
        "_spans",
        "_traceparent",
        "_written",
        "flushed_at",
        "queued",
        "run_id",
        "sent",
    )

    def __init__(
        self,
        run_id: str,
        *,
        sent: int,
        scheduler: Slots,
        limits: StreamLimits,
        spans: Spans = NO_SPANS,
        traceparent: str | None = None,
    ) -> None:
        """`sent` is the seq that followers have when they join. The fan-outs of a process share the scheduler."""
        self.run_id = run_id
        self.sent = sent
        """Followers have every event up to this seq, or have it under way."""
        self.flushed_at = monotonic()
        """When the last piece was written to everybody."""
        self.queued = False
        """It has something to write, and a position in the scheduler's queue."""
        self._scheduler = scheduler
        self._limits = limits
        self._spans: Spans | None = spans
        self._traceparent = traceparent
        self._followers = Followers()
        self._pending: list[Piece] = []
        self._piece: Piece | None = None
        self._written = 0
        self._last_batch = 0
        self._ends_at: int | None = None

    # ------------------------------------------------------------------ the door

    def send(self, piece: Piece) -> None:
        """Writes the piece to every follower, soon: pieces that are sent before their slot share one write."""
        self._pending.append(piece)
        if not self.queued:
            self.queued = True
            self._scheduler.queue(self)

    def join(self, client: Follower) -> None:
        """Takes over a client that has every event up to `sent`; it gets every piece, until `wake`.

        A client that has more waits until `sent` reaches its cursor.
        """
        if client.cursor < self.sent:
            raise AssertionError(f"a client at {client.cursor} cannot follow a fan-out at {self.sent}")
        self._followers.join(client, ahead=client.cursor > self.sent)

    def leave(self, client: Follower) -> None:
        """Gives a client back with its cursor set; does nothing for one that is no follower.

        Some events up to its cursor may still be under way: write nothing to it before `settled`.
        """
        standing = self._followers.leave(client)
        if standing is Standing.CURRENT:
            client.cursor = self.sent
        elif standing is Standing.DUE and self._piece is not None:
            client.cursor = self._piece.first - 1

    async def idle(self) -> None:
        """Returns when every piece that was sent is written to all followers, or is with their transports."""
        while self.busy:
            await self._scheduler.queue_empty()
            await self._scheduler.settled()

    # ------------------------------------------------------------------ for the owner and for sessions

    @property
    def busy(self) -> bool:
        """A piece is pending or under way."""
        return self.queued or self.writing

    @property
    def written_upto(self) -> int:
        """Every follower has the events up to this seq, or has them under way."""
        return self.sent if self._piece is None else self._piece.first - 1

    @property
    def writing(self) -> bool:
        """A piece is under way to the sockets of followers. Nobody else may write to them meanwhile."""
        return self._scheduler.ended < self._last_batch

    async def settled(self) -> None:
        """Returns when nothing that was begun by now is under way any more."""
        await self._scheduler.settled()

    def end_at(self, last_seq: int) -> None:
        """The run ends with this event: gives all followers back once they have it."""
        self._ends_at = last_seq
        self._release_at_end()

    def to_transport(self, client: Follower) -> None:
        """The session wrote to a follower's transport: what follows goes behind that."""
        self._followers.to_transport(client)

    def note_delivery(self, count: int) -> None:
        """Records a span for the run's first delivery by this process: with it a trace reaches a client."""
        if self._spans is not None:
            spans, self._spans = self._spans, None
            with spans.process_events(self._traceparent, run_id=self.run_id, count=count):
                pass

    # ------------------------------------------------------------------ for the scheduler

    def write(self, slots: int) -> int:
        """Writes the piece under way, or the next one, to followers for as many slots; returns the slots it used.

        A client that cannot take the piece goes back to its session.
        """
        followers = self._followers
        piece = self._piece or self._begin()
        taken, left = followers.take(slots, by_transport=BY_TRANSPORT)
        for client in self._write(piece, taken):
            followers.refused(client, taken)
            client.cursor = piece.first - 1
            client.wake()
        self._written += len(taken)
        followers.written(taken)
        if not followers.due:
            self._end(piece)
        return slots - left

    def fell_short(self, client: Follower, rest: bytes) -> None:
        """Sends what a client's socket did not take by its transport, which meets an error again and handles it."""
        self._followers.to_transport(client)
        with contextlib.suppress(Exception):  # as in _write_by_transports
            client.outlet.write(rest)

    # ------------------------------------------------------------------ one piece

    def _begin(self) -> Piece:
        """Takes the next piece, at most `slice_bytes` long. From here on it counts as sent."""
        piece = self._pending[0]
        if len(self._pending) == 1 and piece.last - piece.first < self._limits.page_events:  # nearly always
            self._pending.clear()
        else:
            piece, self._pending = cut(self._pending, self._limits.slice_bytes)
        self._piece = piece
        self._followers.begin()
        self.sent = piece.last
        return piece

    def _write(self, piece: Piece, clients: dict[Follower, Socket | None]) -> list[Follower]:
        """Writes the piece to each client; returns those that did not take it."""
        refused, direct = self._write_by_transports(piece, clients) if self._followers.by_transport else ([], clients)
        if direct:
            try:
                self._last_batch = self._scheduler.add(self, piece.bytes(chunked=True), direct)  # type: ignore[arg-type]  # none of them is None
            except Exception:  # noqa: BLE001  # memory is short: their sessions go on from the same place
                refused += direct
        return refused

    def _write_by_transports(
        self, piece: Piece, clients: dict[Follower, Socket | None]
    ) -> tuple[list[Follower], dict[Follower, Socket | None]]:
        """Writes the piece to the transports that need it. Returns clients that refused it, and those by sockets."""
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
                    self._followers.to_socket(client, outlet.socket.reopen(), clients)
            except Exception:  # noqa: BLE001  # a broken transport must not cost the other clients an event
                refused.append(client)
        return refused, {client: socket for client, socket in clients.items() if socket is not None}

    def _end(self, piece: Piece) -> None:
        """Everybody has the piece, or has it under way."""
        if self._written:
            if self._spans is not None:
                self.note_delivery(piece.count)
            self._scheduler.deliver(piece.times, clients=self._written)
        self.flushed_at = monotonic()
        self._piece, self._written = None, 0
        if self._pending:
            self._give_up_too_much()
        else:
            self.queued = False
        if self._followers.ahead:
            self._give_back([client for client in self._followers.ahead if client.cursor <= self.sent])
        if self._ends_at is not None:
            self._release_at_end()

    def _give_up_too_much(self) -> None:
        """Has sessions take over when more comes than can be written: what is pending would grow for as long."""
        last = self._pending[-1].last
        if last - self.sent > BEHIND_MAX * self._limits.ring_events:
            self._give_back(list(self._followers.current))
            self.sent = last
            self._pending.clear()
            self.queued = False

    def _release_at_end(self) -> None:
        if self._ends_at is not None and self.sent >= self._ends_at:
            self._give_back([*self._followers.current, *self._followers.ahead])

    def _give_back(self, clients: list[Follower]) -> None:
        for client in clients:
            self.leave(client)
            client.wake()
