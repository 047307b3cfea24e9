"""The session of a stream of many runs: one client's loop over all its members.

Only the loop writes to the client, except for heartbeats while it rests. Frames keep the order of their run; the order
between runs is free, so whatever waits is written run by run, which keeps ids short.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Final

from runwire.clock import JITTER, monotonic
from runwire.errors import ArchiveUnavailable, CursorExpired, DatabaseFailed, RunNotFound
from runwire.stream.fanout import Outlet
from runwire.stream.many.member import Member
from runwire.stream.many.members import Members
from runwire.stream.many.output import Output
from runwire.stream.many.saving import SavedPositions
from runwire.stream.many.selector import Selector
from runwire.stream.many.telling import Telling
from runwire.stream.sse import HEARTBEAT, jittered_retry_ms, prelude_of, resumable_end
from runwire.stream.streams import Shared
from runwire.stream.tail import End
from runwire.telemetry.metrics import DeliveryPath, DisconnectReason, StreamKind


class MergedSession:
    """One client's stream of many runs, from `ManyStreams.attach`. Send `prelude` first, then `run`."""

    run_id: Final = "*"
    """For the log: its runs have no name in common."""

    def __init__(
        self,
        selector: Selector,
        saved: SavedPositions,
        parts: Shared,
        *,
        tenant: str,
        over: Mapping[str, bool],
    ) -> None:
        """`over`: the runs of which there is nothing more to tell."""
        self.selector = selector
        self.tenant = tenant
        self.outlet: Outlet
        self.reason = DisconnectReason.CLIENT
        """Why it ended; `client` for a session that never ran."""
        self._parts = parts
        self.saved = saved
        self._positions = saved.positions
        self._output = Output(slice_bytes=parts.limits.slice_bytes)
        self._telling = Telling(saved, self._output)
        self._members = Members(parts.watches)
        self._behind: deque[Member] = deque()
        self._opened_at = monotonic()
        self._rotate_at = self._opened_at + parts.limits.max_age_s * JITTER.uniform(0.9, 1.1)
        self._asked: DisconnectReason | None = None
        self._ended_with = 1
        self._parked: asyncio.Future[None] | None = None
        self._resting = False
        self._ended = False
        self._backfilled: int | None = 0
        for number, run_id in enumerate(saved.positions.runs):
            self._add(run_id, number, over=over.get(run_id, False))

    # ------------------------------------------------------------------ what others may see and do

    @property
    def kind(self) -> StreamKind:
        return self.selector.kind

    @property
    def cursor(self) -> int:
        """For the log: events told."""
        return sum(self._positions.sent)

    @property
    def runs(self) -> frozenset[str]:
        """Those that are a part of it, open or not."""
        return self._members.runs

    @property
    def open_runs(self) -> int:
        """Runs of which there is something to tell yet."""
        return self._members.open

    @property
    def id(self) -> str:
        """The id from which another connection would go on."""
        return self._positions.id

    @property
    def prelude(self) -> bytes:
        """The first bytes of the body, without chunk framing: `retry:`, and the client's own cursor. Send it first."""
        return prelude_of(self._positions.id, retry_ms=self._parts.limits.retry_ms)

    @property
    def is_parked(self) -> bool:
        """It waits until `wake`."""
        return self._parked is not None and not self._parked.done()

    def rotate_within(self, seconds: float) -> None:
        """Rotates the stream no later: the client's permission does not hold for longer."""
        self._rotate_at = min(self._rotate_at, monotonic() + seconds)

    def ask_to_end(self, reason: DisconnectReason, *, among: int = 1) -> None:
        """Ends the stream soon, as one of `among` that are ended together."""
        self._asked = reason
        self._ended_with = among
        self.wake()

    def wake(self) -> None:
        """Lets the loop look again."""
        if self._parked is not None and not self._parked.done():
            self._parked.set_result(None)

    def join(self, run_id: str, *, created_us: int) -> None:
        """Adds a run that has begun to match, from its first event on. Does nothing for one that is known."""
        self.saved.since_us = max(self.saved.since_us, created_us)
        if run_id not in self._members:
            self._add(run_id, self._positions.join(run_id), over=False)
            self.wake()

    def tend(self, now: float) -> float:
        """Heartbeat and rotation of a client that waits. Returns the seconds since its last write."""
        if self._resting:
            if self.outlet.closing():
                self.ask_to_end(DisconnectReason.CLIENT)
            elif now >= self._rotate_at:
                self.ask_to_end(DisconnectReason.ROTATE)
            elif now - self._output.wrote_at >= self._parts.limits.heartbeat_s:
                self._output.write(HEARTBEAT)
        return now - self._output.wrote_at

    async def run(self, outlet: Outlet) -> DisconnectReason:
        """Writes the stream until it is over and returns why; see Session.run."""
        self.outlet = self._output.outlet = outlet
        self._output.wrote_at = monotonic()
        self._members.watch_all()
        try:
            self.reason = await self._until_over()
        except (ArchiveUnavailable, DatabaseFailed):
            self.reason = DisconnectReason.ERROR
        except Exception:
            self.reason = DisconnectReason.ERROR
            raise
        finally:
            self._ended = True
            self.let_go()
            self._parts.pacing.forget(self)
        if not outlet.closing() and self.reason is not DisconnectReason.CLIENT:
            self._output.flush()
            if self.reason is not DisconnectReason.TERMINAL:
                retry_ms = jittered_retry_ms(self._parts.limits.retry_ms, streams=self._ended_with)
                self._output.write(resumable_end(self.reason.value, retry_ms=retry_ms))
        return self.reason

    def let_go(self) -> None:
        """Leaves every watch."""
        self.saved.cancel()
        for member in self._members:
            self._members.leave(member)

    # ------------------------------------------------------------------ for members

    def take(self, member: Member, frames: bytes) -> None:
        """Queues frames that the fan-out wrote to a member."""
        self._telling.queue(member, frames)
        self.wake()

    def held_bytes(self) -> int:
        """The bytes that the client has yet to take."""
        return self._telling.queued_bytes + self._output.waiting_bytes + self.outlet.buffered()

    def over(self) -> bool:
        """Nothing written will arrive."""
        return self._ended or self.outlet.closing()

    def is_behind(self, member: Member) -> None:
        """The fan-out gave a member back."""
        self._behind.append(member)
        self.wake()

    # ------------------------------------------------------------------ the loop

    async def _until_over(self) -> DisconnectReason:
        outlet, limits = self.outlet, self._parts.limits
        while True:
            if self._asked is not None:
                return self._asked
            if outlet.closing():
                return DisconnectReason.CLIENT
            if monotonic() >= self._rotate_at:
                return DisconnectReason.ROTATE
            if outlet.buffered() > limits.pause_bytes:
                await asyncio.sleep(0)  # the event loop writes at the end of its tick: the client may well take it all
                if outlet.buffered() > limits.pause_bytes:
                    self._parts.pacing.wait_for(self)
                    await self._parking()
            elif self._telling.queued_bytes:
                await self._telling.queued()
            elif self._behind:
                # The queue is empty, and nothing is queued for a member that is behind: the order of its run holds.
                await self._advance(self._behind.popleft())
            elif self._members.open == 0 and not self.selector.open_ended:
                return DisconnectReason.TERMINAL
            else:
                self._note_backfill()
                self._resting = True
                await self._parking()
                self._resting = False
            self._output.flush()

    def _parking(self) -> asyncio.Future[None]:
        """Await it until `wake`."""
        self._parked = asyncio.get_running_loop().create_future()
        return self._parked

    async def _advance(self, member: Member) -> None:
        """Brings one member a piece forward, to its end, or to its watch."""
        watch = member.watch
        try:
            if watch is None:
                watch = self._members.watch(member)
            if not watch.opened.done():
                await asyncio.shield(watch.opened)
            else:
                watch.opened.result()
            piece = await watch.piece_after(member.cursor)
        except RunNotFound:
            self._members.retire(member)
            return
        except CursorExpired as gone:  # its own stream would say 410 with this seq, and go on from there
            await self._telling.skip(member, upto=gone.earliest_seq - 1)
            member.cursor = gone.earliest_seq - 1
            self._behind.append(member)
            return
        if piece is not None:
            await self._telling.frames(member, piece.bytes(chunked=False))
            member.cursor = piece.last
            watch.note_delivery(piece.count)
            self._parts.metrics.events_delivered[DeliveryPath.BACKFILL].inc(piece.count)
            if self._backfilled is not None:
                self._backfilled += piece.count
            # The end at once: later, ids would have to name the run again.
            if (end := watch.ended_for(piece.last)) is not None:
                await self._end(member, end)
            else:
                self._behind.append(member)
        elif (end := watch.ended_for(member.cursor)) is not None:
            await self._end(member, end)
        else:
            # Nothing suspended since there was no piece: whatever comes now comes to members that follow.
            watch.join(member)

    async def _end(self, member: Member, end: End) -> None:
        await self._telling.end(member, end)
        self._members.retire(member)

    def _add(self, run_id: str, number: int, *, over: bool) -> None:
        if over:
            self._members.add_over(run_id)
            return
        member = Member(run_id, number=number, cursor=self._positions.sent[number], merging=self)
        self._members.add(member)
        self._behind.append(member)

    def _note_backfill(self) -> None:
        """Once, when the client first caught up with all its runs."""
        if self._backfilled is not None:
            self._parts.metrics.sse_backfill.observe(self._backfilled)
            self._parts.metrics.sse_backfill_duration.observe(monotonic() - self._opened_at)
            self._backfilled = None
