"""Writes the frames of each run into a stream of many runs, with ids that resume all of them."""

from __future__ import annotations

from runwire.stream.many.member import Member
from runwire.stream.many.output import Output
from runwire.stream.many.saving import SavedPositions
from runwire.stream.piece import FRAME_END, BrokenSequence
from runwire.stream.sse import ended_frame
from runwire.stream.tail import End


class Telling:
    """Tells one client of runs, each in its order. It moves positions on; it moves no member."""

    def __init__(self, saved: SavedPositions, output: Output) -> None:
        self._saved = saved
        self._positions = saved.positions
        self._output = output
        self._queue: list[tuple[Member, bytes]] = []
        self.queued_bytes = 0
        """Bytes of frames that are queued."""

    def queue(self, member: Member, frames: bytes) -> None:
        """Keeps frames for `queued`."""
        self._queue.append((member, frames))
        self.queued_bytes += len(frames)

    async def queued(self) -> None:
        """Writes what is queued, run by run."""
        queue, self._queue, self.queued_bytes = self._queue, [], 0
        by_run: dict[Member, list[bytes]] = {}
        for member, frames in queue:
            by_run.setdefault(member, []).append(frames)
        for member, runs in by_run.items():
            await self.frames(member, runs[0] if len(runs) == 1 else b"".join(runs))

    async def frames(self, member: Member, frames: bytes) -> None:
        """Writes frames of a run, each with its id."""
        await self._make_room_for(member)
        events = frames.split(FRAME_END)
        del events[-1]
        first = int(events[0][4 : events[0].index(b"\n")])  # after "id: "
        told = self._positions.sent[member.number]
        if first != told + 1:
            raise BrokenSequence(expected=told + 1, actual=first)
        ids = self._positions.step(member.number, count=len(events))
        self._output.put(
            b"".join(
                b"id: %b%b%b" % (made.encode("ascii"), event[event.index(b"\n") :], FRAME_END)
                for made, event in zip(ids, events, strict=True)
            )
        )

    async def end(self, member: Member, end: End) -> None:
        """Writes that a run is over."""
        await self._make_room_for(member)
        (made,) = self._positions.step(member.number, count=1)
        self._output.put(ended_frame(made, member.run_id, state=end.state, last_seq=end.last_seq))

    async def skip(self, member: Member, *, upto: int) -> None:
        """Leaves out events that nobody has any more."""
        await self._make_room_for(member)
        self._positions.step(member.number, count=upto - member.cursor)

    async def _make_room_for(self, member: Member) -> None:
        await self._saved.make_room_for(member.number, before_waiting=self._output.flush)
