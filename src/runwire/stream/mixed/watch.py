"""The live end of a run's stream with its parts, or some of them, however many clients follow it.

It knows where it is (`head`: a MixedCursor), and makes the frames that come next from two sources of news:

    the run's watch     gives pieces of events, in order and without a hole: the MixedWatch follows it as a client would
    written, hinted     bytes that were committed, with their offset; or a hint, and PartCatchUp reads the bytes

An event that opens or ends a part, and the last one of the run, take a *repair*: steps from the head, which put bytes
and events in order. News wait meanwhile.

    new --adopt: a client that has caught up--> stale --repair: a complete step------> live --such an event--> stale
                                                  |                                     |
                                                  +--the run is over--> ended           +--too much pending--> stale
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from runwire.content.part_feed import PartFeed
from runwire.content.part_writer import Written
from runwire.content.parts import Reach
from runwire.errors import DatabaseFailed, RunwireError
from runwire.stream.fanout import Outlet
from runwire.stream.limits import StreamLimits
from runwire.stream.mixed.catch_up import PartCatchUp
from runwire.stream.mixed.cursor import MixedCursor
from runwire.stream.mixed.frames import ids_in, last_id_in
from runwire.stream.mixed.head import Head
from runwire.stream.mixed.reader import MixedReader, Names, Step, counted_from
from runwire.stream.mixed.slots import PartSlots
from runwire.stream.mixed.trail import Trail
from runwire.stream.piece import Times
from runwire.stream.tail import End
from runwire.stream.watch import Watch
from runwire.stream.watches import Watches
from runwire.telemetry.logs import LogEvent, get_logger
from runwire.telemetry.metrics import DisconnectReason

PENDING_MAX: Final = 262_144
"""Bytes that may wait for slots of the fan-out. With more, followers get the rest in larger frames later."""
NEWS_MAX: Final = 1000
"""News that may wait for a repair."""
AGAIN_S: Final = 0.1
AGAIN_MAX_S: Final = 1.0

_log = get_logger()


class Client(Protocol):
    """One client of the watch."""

    def hear(self) -> None:
        """There is something new. For clients that wait outside of the fan-out."""

    def ask_to_end(self, reason: DisconnectReason, *, among: int = 1) -> None: ...


@dataclass(frozen=True, slots=True)
class MixedParts:
    """Everything that the mixed watches of a process share."""

    watches: Watches
    feed: PartFeed
    reader: MixedReader
    catch_up: PartCatchUp
    slots: PartSlots
    limits: StreamLimits
    now_us: Callable[[], int]
    """The clock that the parts' times are of."""


class MixedWatch:
    """See above. Its clients are in `clients`; those that have caught up follow `trail.fanout`."""

    def __init__(self, run_id: str, names: Names, parts: MixedParts) -> None:
        """From here on it hears of news. `close` it."""
        self.run_id = run_id
        self.names = names
        self.clients: dict[Client, None] = {}
        self.trail: Trail | None = None
        """From `adopt` on."""
        self.end: End | None = None
        """How the run ended, once the head is there."""
        self.lost = False
        """Its clients were asked to leave. Those who come need another."""
        self.news = 0
        """Counts whatever clients that wait do not know."""
        self._parts = parts
        self._head = Head()
        self._waiting: dict[Client, None] = {}
        self._published = 0
        self._stale = False
        self._lacks_since_us = 0  # what the next step finds may be as old
        self._repairing = False
        self._lagging = False
        self._queue: list[bytes | Written] = []
        self._work = asyncio.Event()
        # As a follower of the run's watch:
        self.cursor = 0
        self.outlet = Outlet(self._take, _nothing_held, _never_closing, chunked=False)
        self._follows = False
        self._run: Watch = parts.watches.open(run_id)
        parts.watches.hold(self._run, self)
        self._feeding = parts.feed.listening(run_id, self._hear)
        self._feeding.__enter__()
        self._task = asyncio.create_task(self._loop(), name=f"mixed watch of {run_id}")

    async def opened(self) -> None:
        """Returns when the run's own watch is open. Raises what that raises, such as RunNotFound."""
        await asyncio.shield(self._run.opened)

    async def aclose(self) -> None:
        """Clients have left before."""
        self._feeding.__exit__(None, None, None)
        self._parts.catch_up.forget(self)
        if self._follows:
            self._follows = False
            self._run.leave(self)
        self._parts.watches.leave(self._run, self)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def ask_to_end(self, reason: DisconnectReason, *, among: int = 1) -> None:
        """Ends the streams of all clients: the run is gone, or content cannot be read."""
        self.lost = True
        for client in tuple(self.clients):
            client.ask_to_end(reason, among=max(among, len(self.clients)))

    # ------------------------------------------------------------------ for its clients

    @property
    def head(self) -> MixedCursor:
        """Where it is."""
        return self._head.cursor

    @property
    def published(self) -> int:
        """Events up to this seq may be shown."""
        return max(self._published, self._run.tail.published)

    def ended_at(self, event_id: str) -> End | None:
        """How the run ended, for a client that has all of it."""
        return self.end if self.trail is not None and event_id == self.trail.last_id else None

    def adopt(self, step: Step) -> None:
        """Begins where a client is that has found all there was."""
        self._head.adopt(step)
        self.cursor = self._head.seq
        self.trail = Trail(self.run_id, self._head.id, slots=self._parts.slots, limits=self._parts.limits)
        self._make_stale(since_us=step.began_us)  # something may be new since

    def wait(self, client: Client) -> None:
        """Has a client hear of news that cannot follow."""
        self._waiting[client] = None

    def forget(self, client: Client) -> None:
        self._waiting.pop(client, None)

    # ------------------------------------------------------------------ news

    def reaches(self) -> Sequence[Reach]:
        """The open attempts, and how far each was told."""
        return self._head.reaches

    def hear(self, written: Written) -> None:
        """Takes bytes that were committed. Those that were told are dropped; after a gap they are read."""
        if self._lagging:
            return
        if self._stale or self._repairing:
            self._keep(written)
            return
        told = self._head.tell_bytes(written)
        if told is None:
            self._parts.catch_up.ask(self, since_us=written.written_us)
        elif told.frames:
            self._send(b"".join(told.frames), told.ids, told.times)

    def look(self, *, hinted_us: int = 0) -> None:
        """News may have been lost, or were a hint that came then: has bytes read that nobody told of."""
        if self._head.reaches:
            self._parts.catch_up.ask(self, since_us=hinted_us)

    def wake(self) -> None:
        """The run's watch gives the follower back: the run is over, or too much was pending."""
        self._follows = False
        self._work.set()

    def _hear(self, written: Written | None) -> None:
        if written is None:
            self.look(hinted_us=self._parts.now_us())
        elif self.trail is not None:
            self.hear(written)

    def _take(self, frames: bytes) -> None:
        """Takes frames that the fan-out of the run's watch writes."""
        if self._lagging:
            self._must_reach(frames)
        elif self._stale or self._repairing:
            self._keep(frames)
        else:
            self._tell_events(frames)

    def _keep(self, news: bytes | Written) -> None:
        self._queue.append(news)
        if len(self._queue) > NEWS_MAX:  # a repair finds them
            queue, self._queue = self._queue, []
            for each in queue:
                if isinstance(each, bytes):
                    self._must_reach(each)
            self._make_stale()

    def _must_reach(self, frames: bytes) -> None:
        """The events of these frames are published: repairs tell them."""
        self._published = max(self._published, int(last_id_in(frames)))

    # ------------------------------------------------------------------ telling

    def _tell_events(self, frames: bytes) -> None:
        told = self._head.tell_events(frames)
        if told.frames:
            self._send(b"".join(told.frames), told.ids, told.times)
        if not told.complete:
            self._must_reach(frames)
            self._make_stale()

    def _send(self, frames: bytes, ids: Sequence[str], times: Sequence[Times]) -> None:
        trail = self.trail
        assert trail is not None  # noqa: S101  # nothing is told before
        trail.add(frames, ids, times)
        if trail.kept_bytes > PENDING_MAX:
            self._lagging = True
            self._make_stale()
        self._tell_waiting()

    def _tell_waiting(self) -> None:
        self.news += 1
        for client in tuple(self._waiting):
            client.hear()

    # ------------------------------------------------------------------ repair

    def _make_stale(self, *, since_us: int = 0) -> None:
        self._lacks_since_us = self._lacks_since_us if self._stale else since_us or self._parts.now_us()
        self._stale = True
        self._work.set()

    async def _loop(self) -> None:
        pause_s = AGAIN_S
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                if await self._repair():
                    pause_s = AGAIN_S
                    continue
            except DatabaseFailed as error:  # clients wait
                _log.debug(LogEvent.DATABASE_UNAVAILABLE, doing="stream", code=error.code)
            except RunwireError:  # content or old events cannot be read now: clients come back
                self.ask_to_end(DisconnectReason.ERROR)
            except Exception as error:  # noqa: BLE001  # a defect costs these streams, and not the process
                _log.error(LogEvent.TASK_FAILED, task="mixed watch", run_id=self.run_id, exc_info=error)
                self.ask_to_end(DisconnectReason.ERROR)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, AGAIN_MAX_S)
            self._work.set()

    async def _repair(self) -> bool:
        """Brings the head to where PostgreSQL and the run's watch are, and takes the news that came meanwhile. Returns
        whether it got there.
        """
        trail = self.trail
        if trail is None:
            return True
        self._repairing = True
        try:
            while self._stale or not (self._follows or self.end):
                if self._lagging:
                    await trail.fanout.idle()
                    self._lagging = False
                if not self._stale:
                    await self._follow()
                elif not await self._step():
                    return False
        finally:
            self._repairing = False
        queue, self._queue = self._queue, []
        for news in queue:
            if isinstance(news, bytes):
                self._take(news)
            else:
                self.hear(news)
        return True

    async def _step(self) -> bool:
        """Tells what comes after the head. Returns False when that is not there yet."""
        published = self.published
        step = await self._parts.reader.step(self.run_id, self.head, names=self.names, published=published)
        since_us = self._lacks_since_us
        self._lacks_since_us = step.began_us if step.complete else since_us
        self._head.settle_at(step)
        missing = step.end is None and (self._head.seq < published or self._run.ended_for(self._head.seq) is not None)
        self._stale = missing or (bool(step.frames) and not step.complete)
        if step.frames:
            self._send(step.frames, ids_in(step.frames), counted_from(step.times, since_us))
        if step.end is not None and self.trail is not None:
            self.end = step.end
            self.trail.close()
            self._tell_waiting()
        return bool(step.frames) or not missing

    async def _follow(self) -> None:
        """Goes on with the run's watch: takes a piece that it has, or follows it."""
        piece = await self._run.piece_after(self.cursor)
        if piece is not None:
            self.cursor = piece.last
            self._tell_events(piece.bytes(chunked=False))
        elif self._run.ended_for(self.cursor) is not None:
            self._make_stale()
        else:
            self._run.join(self)
            self._follows = True


def _nothing_held() -> int:
    return 0


def _never_closing() -> bool:
    return False
