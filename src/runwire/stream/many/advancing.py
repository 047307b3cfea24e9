"""Members of a stream of many runs that are behind: each is brought forward by a piece, until it follows its run."""

from __future__ import annotations

import asyncio
from collections import deque

from runwire.clock import monotonic
from runwire.errors import CursorExpired, RunNotFound
from runwire.stream.many.member import Member
from runwire.stream.many.members import Members
from runwire.stream.many.telling import Telling
from runwire.stream.tail import End
from runwire.telemetry.metrics import DeliveryPath, StreamMetrics


class Advancing:
    """For one session, whose loop calls it."""

    def __init__(self, members: Members, telling: Telling, metrics: StreamMetrics) -> None:
        self.behind: deque[Member] = deque()
        """Members that neither follow nor are over. Add those that the fan-out gives back."""
        self._members = members
        self._telling = telling
        self._metrics = metrics
        self._opened_at = monotonic()
        self._backfilled: int | None = 0

    async def advance(self) -> None:
        """Brings the first member a piece forward, to its end, or to its watch."""
        member = self.behind.popleft()
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
            self.behind.append(member)
            return
        if piece is not None:
            await self._telling.frames(member, piece.bytes(chunked=False))
            member.cursor = piece.last
            watch.note_delivery(piece.count)
            self._metrics.events_delivered[DeliveryPath.BACKFILL].inc(piece.count)
            if self._backfilled is not None:
                self._backfilled += piece.count
            # The end at once: later, ids would have to name the run again.
            if (end := watch.ended_for(piece.last)) is not None:
                await self._end(member, end)
            else:
                self.behind.append(member)
        elif (end := watch.ended_for(member.cursor)) is not None:
            await self._end(member, end)
        else:
            # Nothing suspended since there was no piece: whatever comes now comes to members that follow.
            watch.join(member)

    async def _end(self, member: Member, end: End) -> None:
        await self._telling.end(member, end)
        self._members.retire(member)

    def note_caught_up(self) -> None:
        """Counts, once, when the client first caught up with all its runs."""
        if self._backfilled is not None:
            self._metrics.sse_backfill.observe(self._backfilled)
            self._metrics.sse_backfill_duration.observe(monotonic() - self._opened_at)
            self._backfilled = None
