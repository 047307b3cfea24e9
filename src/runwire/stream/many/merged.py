"""The session of a stream of many runs: one client's loop over all its members.

Only the loop writes to the client, except for heartbeats while it rests. Frames keep the order of their run; the order
between runs is free, so whatever waits is written run by run, which keeps ids short.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from runwire.clock import monotonic
from runwire.errors import ArchiveUnavailable, DatabaseFailed
from runwire.stream.client_loop import ClientLoop
from runwire.stream.fanout import Outlet
from runwire.stream.many.advancing import Advancing
from runwire.stream.many.member import Member
from runwire.stream.many.members import LATE_US, Members
from runwire.stream.many.output import Output
from runwire.stream.many.saving import SavedPositions
from runwire.stream.many.selector import Selector
from runwire.stream.many.telling import Telling
from runwire.stream.sse import HEARTBEAT, prelude_of
from runwire.stream.streams import Shared
from runwire.telemetry.metrics import DisconnectReason, StreamKind


class MergedSession(ClientLoop):
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
        created_us: Mapping[str, int],
    ) -> None:
        """`over`: the runs of which there is nothing more to tell. `created_us`: when runs were created."""
        super().__init__(parts.limits)
        self.selector = selector
        self.tenant = tenant
        self._parts = parts
        self.saved = saved
        self._positions = saved.positions
        self._output = Output(slice_bytes=parts.limits.slice_bytes)
        self._telling = Telling(saved, self._output)
        self._members = Members(parts.watches)
        self._advancing = Advancing(self._members, self._telling, parts.metrics)
        self._ended = False
        self.is_full = False
        """It had no room for a run that matches."""
        self._wants_room = False
        for number, run_id in enumerate(saved.positions.runs):
            self._add(run_id, number, over=over.get(run_id, False), created_us=created_us.get(run_id, 0))
        for run_id in saved.positions.past:
            self._members.add_over(run_id, created_us=created_us.get(run_id, 0))

    # ------------------------------------------------------------------ what others may see and do

    @property
    def kind(self) -> StreamKind:
        return self.selector.kind

    @property
    def cursor(self) -> int:
        """For the log: events told."""
        return sum(self._positions.sent)

    @property
    def runs(self) -> AbstractSet[str]:
        """Those that are a part of it, open or not: a view, which changes with them."""
        return self._members.runs

    @property
    def numbered_runs(self) -> int:
        """Runs that an id can name."""
        return len(self._positions.runs)

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
        return prelude_of(self._positions.id, retry_ms=self._limits.retry_ms)

    def join(self, run_id: str, *, created_us: int) -> None:
        """Adds a run that has begun to match, from its first event on. Does nothing for one that is known."""
        self.saved.since_us = max(self.saved.since_us, created_us)
        if run_id not in self._members:
            self._add(run_id, self._positions.join(run_id), over=False, created_us=created_us)
            self.wake()

    def make_room(self) -> None:
        """Has runs that are over give up their numbers, soon."""
        self._wants_room = self.open_runs < len(self._positions.runs)
        self.wake()

    def tend(self, now: float) -> float:
        """Heartbeat and rotation of a client that waits. Returns the seconds since its last write."""
        if self._resting:
            if self.outlet.closing():
                self.ask_to_end(DisconnectReason.CLIENT)
            elif now >= self._rotate_at:
                self.ask_to_end(DisconnectReason.ROTATE)
            elif now - self._output.wrote_at >= self._limits.heartbeat_s:
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
                self._output.write(self._resumable_end())
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
        self._advancing.behind.append(member)
        self.wake()

    # ------------------------------------------------------------------ the loop

    async def _until_over(self) -> DisconnectReason:
        outlet, limits = self.outlet, self._limits
        while True:
            if (reason := self._ends_for()) is not None:
                return reason
            if outlet.buffered() > limits.pause_bytes:
                await asyncio.sleep(0)  # the event loop writes at the end of its tick: the client may well take it all
                if outlet.buffered() > limits.pause_bytes:
                    self._parts.pacing.wait_for(self)
                    await self._parking()
            elif self._wants_room:
                await self._renumber()
            elif self._telling.queued_bytes:
                await self._telling.queued()
            elif self._advancing.behind:
                # The queue is empty, and nothing is queued for a member that is behind: the order of its run holds.
                await self._advancing.advance()
            elif self._members.open == 0 and not self.selector.open_ended:
                return DisconnectReason.TERMINAL
            else:
                self._advancing.note_caught_up()
                self._resting = True
                await self._parking()
                self._resting = False
            self._output.flush()

    def _ends_for(self) -> DisconnectReason | None:
        if self._asked is not None:
            return self._asked
        if self.outlet.closing():
            return DisconnectReason.CLIENT
        return DisconnectReason.ROTATE if monotonic() >= self._rotate_at else None

    async def _renumber(self) -> None:
        """Numbers only the runs that are open: ids have names for no more than RUNS_MAX."""
        self._wants_room = False
        self.saved.cancel()
        past = self._members.past(since_us=self.saved.since_us - 2 * LATE_US)
        self._positions.renumber(self._members.renumber(), past=past)
        await self.saved.checkpoint()

    def _add(self, run_id: str, number: int, *, over: bool, created_us: int) -> None:
        if over:
            self._members.add_over(run_id, created_us=created_us)
            return
        member = Member(run_id, number=number, cursor=self._positions.sent[number], merging=self)
        self._members.add(member, created_us=created_us)
        self._advancing.behind.append(member)
