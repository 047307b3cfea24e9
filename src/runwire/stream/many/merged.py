"""The session of a stream of many runs: one client's loop over all its members.

Only the loop writes to the client, except for heartbeats while it rests. Frames keep the order of their run; the order
between runs is free, so whatever waits is written run by run, which keeps ids short.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from runwire.clock import JITTER, monotonic
from runwire.errors import ArchiveUnavailable, CursorExpired, DatabaseFailed, RunNotFound
from runwire.stream.fanout import Outlet
from runwire.stream.many.checkpoints import ROSTER_MORE_S, Checkpoint, Checkpoints
from runwire.stream.many.member import Member
from runwire.stream.many.positions import ZERO, Positions
from runwire.stream.many.selector import Selector
from runwire.stream.piece import FRAME_END, BrokenSequence
from runwire.stream.sse import HEARTBEAT, chunk, ended_frame, jittered_retry_ms, prelude_of, resumable_end
from runwire.stream.streams import Shared
from runwire.stream.tail import End
from runwire.telemetry.metrics import DeliveryPath, DisconnectReason, StreamKind

STEPS_MAX: Final = 11
"""Runs that an id mentions before a checkpoint is waited for: with two or three characters each, a fifth of a frame."""
STEPS_SOON: Final = 7
"""Runs from which on a checkpoint is stored without anybody waiting for it."""
PATIENCE_S: Final = 1.0
"""For a checkpoint. Then ids get longer instead, because events must not wait for PostgreSQL."""


class MergedSession:
    """One client's stream of many runs, from `ManyStreams.attach`. Send `prelude` first, then `run`."""

    run_id: Final = "*"
    """For the log: its runs have no name in common."""

    def __init__(
        self,
        selector: Selector,
        positions: Positions,
        parts: Shared,
        checkpoints: Checkpoints,
        *,
        tenant: str,
        over: Mapping[str, bool],
        created_us: Mapping[str, int],
        since_us: int,
    ) -> None:
        """`over`: the runs of which there is nothing more to tell. `created_us` of those that are known."""
        self.selector = selector
        self.tenant = tenant
        self.since_us = since_us
        """Every run created before this was considered."""
        self.outlet: Outlet
        self.reason = DisconnectReason.CLIENT
        """Why it ended; `client` for a session that never ran."""
        self._parts = parts
        self._checkpoints = checkpoints
        self._positions = positions
        self._created_us = dict(created_us)
        self._members: dict[str, Member | None] = {}
        """By run; None for one that is over."""
        self._open = 0
        self._behind: deque[Member] = deque()
        self._queue: list[tuple[Member, bytes]] = []
        self._queued_bytes = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._storing: asyncio.Task[tuple[int, list[int], bool]] | None = None
        self._rostered_at = -ROSTER_MORE_S
        self._opened_at = self._wrote_at = monotonic()
        self._rotate_at = self._opened_at + parts.limits.max_age_s * JITTER.uniform(0.9, 1.1)
        self._asked: DisconnectReason | None = None
        self._ended_with = 1
        self._parked: asyncio.Future[None] | None = None
        self._resting = False
        self._ended = False
        self._backfilled: int | None = 0
        for number, run_id in enumerate(positions.runs):
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
        return frozenset(self._members)

    @property
    def open_runs(self) -> int:
        """Runs of which there is something to tell yet."""
        return self._open

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
        self.since_us = max(self.since_us, created_us)
        if run_id not in self._members:
            self._created_us[run_id] = created_us
            self._add(run_id, self._positions.join(run_id), over=False)
            self.wake()

    def tend(self, now: float) -> float:
        """Heartbeat and rotation of a client that waits. Returns the seconds since its last write."""
        if self._resting:
            if self.outlet.closing():
                self.ask_to_end(DisconnectReason.CLIENT)
            elif now >= self._rotate_at:
                self.ask_to_end(DisconnectReason.ROTATE)
            elif now - self._wrote_at >= self._parts.limits.heartbeat_s:
                self._write(HEARTBEAT)
        return now - self._wrote_at

    async def checkpoint(self) -> None:
        """Makes the present positions durable, with the list of runs. Raises DatabaseFailed."""
        self._positions.roster = None
        key, sent, with_runs = await self._store(list(self._positions.sent))
        self._rebase(key, sent, with_runs=with_runs)

    async def run(self, outlet: Outlet) -> DisconnectReason:
        """Writes the stream until it is over and returns why; see Session.run."""
        self.outlet = outlet
        self._wrote_at = monotonic()
        self._open_watches()
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
            self._flush()
            if self.reason is not DisconnectReason.TERMINAL:
                retry_ms = jittered_retry_ms(self._parts.limits.retry_ms, streams=self._ended_with)
                self._write(resumable_end(self.reason.value, retry_ms=retry_ms))
        return self.reason

    def let_go(self) -> None:
        """Leaves every watch."""
        if self._storing is not None:
            self._storing.cancel()
            self._storing = None
        for member in self._members.values():
            if member is not None:
                self._leave(member)

    # ------------------------------------------------------------------ for members

    def take(self, member: Member, frames: bytes) -> None:
        """Queues frames that the fan-out wrote to a member."""
        self._queue.append((member, frames))
        self._queued_bytes += len(frames)
        self.wake()

    def held_bytes(self) -> int:
        """The bytes that the client has yet to take."""
        return self._queued_bytes + self._out_bytes + self.outlet.buffered()

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
            elif self._queue:
                await self._tell_queued()
            elif self._behind:
                # The queue is empty, and nothing is queued for a member that is behind: the order of its run holds.
                await self._advance(self._behind.popleft())
            elif self._open == 0 and not self.selector.open_ended:
                return DisconnectReason.TERMINAL
            else:
                self._note_backfill()
                self._resting = True
                await self._parking()
                self._resting = False
            self._flush()

    def _parking(self) -> asyncio.Future[None]:
        """Await it until `wake`."""
        self._parked = asyncio.get_running_loop().create_future()
        return self._parked

    async def _tell_queued(self) -> None:
        queue, self._queue, self._queued_bytes = self._queue, [], 0
        by_run: dict[Member, list[bytes]] = {}
        for member, frames in queue:
            by_run.setdefault(member, []).append(frames)
        for member, runs in by_run.items():
            await self._tell(member, runs[0] if len(runs) == 1 else b"".join(runs))

    async def _advance(self, member: Member) -> None:
        """Brings one member a piece forward, to its end, or to its watch."""
        watch = member.watch
        try:
            if watch is None:
                watch = member.watch = self._parts.watches.open(member.run_id)
                self._parts.watches.hold(watch, member)
            if not watch.opened.done():
                await asyncio.shield(watch.opened)
            else:
                watch.opened.result()
            piece = await watch.piece_after(member.cursor)
        except RunNotFound:
            self._retire(member)
            return
        except CursorExpired as gone:  # its own stream would say 410 with this seq, and go on from there
            await self._skip(member, upto=gone.earliest_seq - 1)
            return
        if piece is not None:
            await self._tell(member, piece.bytes(chunked=False))
            member.cursor = piece.last
            watch.note_delivery(piece.count)
            self._parts.metrics.events_delivered[DeliveryPath.BACKFILL].inc(piece.count)
            if self._backfilled is not None:
                self._backfilled += piece.count
            # The end at once: later, ids would have to name the run again.
            if (end := watch.ended_for(piece.last)) is not None:
                await self._tell_end(member, end)
            else:
                self._behind.append(member)
        elif (end := watch.ended_for(member.cursor)) is not None:
            await self._tell_end(member, end)
        else:
            # Nothing suspended since there was no piece: whatever comes now comes to members that follow.
            watch.join(member)

    # ------------------------------------------------------------------ telling

    async def _tell(self, member: Member, frames: bytes) -> None:
        """Writes frames of a run, each with its id."""
        await self._make_room_for(member)
        events = frames.split(FRAME_END)
        del events[-1]
        first = int(events[0][4 : events[0].index(b"\n")])  # after "id: "
        told = self._positions.sent[member.number]
        if first != told + 1:
            raise BrokenSequence(expected=told + 1, actual=first)
        ids = self._positions.step(member.number, count=len(events))
        self._put(
            b"".join(
                b"id: %b%b%b" % (made.encode("ascii"), event[event.index(b"\n") :], FRAME_END)
                for made, event in zip(ids, events, strict=True)
            )
        )

    async def _tell_end(self, member: Member, end: End) -> None:
        await self._make_room_for(member)
        (made,) = self._positions.step(member.number, count=1)
        self._put(ended_frame(made, member.run_id, state=end.state, last_seq=end.last_seq))
        self._retire(member)

    async def _make_room_for(self, member: Member) -> None:
        """Sees to it that the next id can mention the run, and is short."""
        positions = self._positions
        self._adopt()
        while member.number >= positions.known or (
            not positions.has_step(member.number) and positions.steps >= STEPS_MAX
        ):
            self._flush()
            storing = self._store_soon()
            unknown = member.number >= positions.known
            with contextlib.suppress(DatabaseFailed, TimeoutError):
                await asyncio.wait_for(asyncio.shield(storing), None if unknown else PATIENCE_S)
            failed = storing.done() and storing.exception() is not None
            if failed and unknown:
                storing.result()
            self._adopt()
            if failed or not storing.done():
                return
        if positions.steps >= STEPS_SOON and (positions.key != ZERO or len(positions.runs) > STEPS_MAX):
            self._store_soon()

    def _store_soon(self) -> asyncio.Task[tuple[int, list[int], bool]]:
        if self._storing is None:
            self._storing = asyncio.create_task(self._store(list(self._positions.sent)), name="checkpoint of many runs")
        return self._storing

    def _adopt(self) -> None:
        """Counts from the checkpoint that was stored meanwhile, if one was."""
        storing = self._storing
        if storing is not None and storing.done():
            self._storing = None
            if not storing.cancelled() and storing.exception() is None:
                key, sent, with_runs = storing.result()
                self._rebase(key, sent, with_runs=with_runs)

    async def _store(self, sent: list[int]) -> tuple[int, list[int], bool]:
        positions = self._positions
        with_runs = positions.roster is None or monotonic() - self._rostered_at > ROSTER_MORE_S / 2
        key = await self._checkpoints.store(
            Checkpoint(
                self.tenant,
                self.selector.digest,
                self.since_us,
                tuple(positions.runs[: len(sent)]) if with_runs else None,
                tuple(sent),
                None if with_runs else positions.roster,
            )
        )
        self._parts.metrics.stream_checkpoints.inc()
        return key, sent, with_runs

    def _rebase(self, key: int, sent: Sequence[int], *, with_runs: bool) -> None:
        self._positions.rebase(key, sent)
        if with_runs and len(sent) == len(self._positions.runs):
            self._positions.roster = key
            self._rostered_at = monotonic()

    # ------------------------------------------------------------------ members come and go

    def _add(self, run_id: str, number: int, *, over: bool) -> None:
        if over:
            self._members[run_id] = None
            return
        member = Member(run_id, number=number, cursor=self._positions.sent[number], merging=self)
        self._members[run_id] = member
        self._open += 1
        self._behind.append(member)

    def _open_watches(self) -> None:
        """Opens the watch of every member at once: their look-ups share statements."""
        for member in self._members.values():
            if member is not None and member.watch is None:
                member.watch = self._parts.watches.open(member.run_id)
                self._parts.watches.hold(member.watch, member)

    async def _skip(self, member: Member, *, upto: int) -> None:
        """Leaves out events that nobody has any more."""
        await self._make_room_for(member)
        count = upto - member.cursor
        self._positions.step(member.number, count=count)
        member.cursor = upto
        self._behind.append(member)

    def _retire(self, member: Member) -> None:
        """There is nothing more to tell of the run."""
        self._leave(member)
        self._members[member.run_id] = None
        self._open -= 1

    def _leave(self, member: Member) -> None:
        watch, member.watch = member.watch, None
        if watch is None:
            return
        if watch.tail.position is not None:
            watch.leave(member)
        self._parts.watches.leave(watch, member)

    # ------------------------------------------------------------------ bytes

    def _put(self, data: bytes) -> None:
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes >= self._parts.limits.slice_bytes:
            self._flush()

    def _flush(self) -> None:
        if self._out:
            out, self._out, self._out_bytes = self._out, [], 0
            self._write(b"".join(out))

    def _write(self, data: bytes) -> None:
        self.outlet.write(chunk(data) if self.outlet.chunked else data)
        self._wrote_at = monotonic()

    def _note_backfill(self) -> None:
        """Once, when the client first caught up with all its runs."""
        if self._backfilled is not None:
            self._parts.metrics.sse_backfill.observe(self._backfilled)
            self._parts.metrics.sse_backfill_duration.observe(monotonic() - self._opened_at)
            self._backfilled = None
