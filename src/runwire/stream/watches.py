"""The watched runs of a process, and the bounds on what they keep.

The first client opens a watch; it closes a while after the last client left.

    opening --subscribed and located--> open <--a client comes-- idle
                                          |                       ^
                                          +--the last one leaves--+

    opening --failed-------------------------------> closed (every client that waits hears of it)

    idle --LINGER_S passed, or too much is kept----> closed

    open or idle --the run is gone-----------------> closed (its streams end, resumable)
"""

from __future__ import annotations

import asyncio
from typing import Final

from runwire.clock import monotonic
from runwire.stream.watch import Holder, Watch, WatchParts
from runwire.telemetry.metrics import DisconnectReason

LINGER_S: Final = 5.0
"""How long a watch outlives its last client: the reconnects of a flaky network find it warm."""


class Watches:
    """Opens a watch for the first client of a run, and closes it after the last."""

    def __init__(self, parts: WatchParts) -> None:
        self._parts = parts
        self._watches: dict[str, Watch] = {}
        self._idle: dict[Watch, None] = {}
        """Watches without sessions, the longest idle first."""
        self._let_go: list[Watch] = []
        """Out of the register, and still to be closed."""
        self._ring_bytes = 0

    def get(self, run_id: str) -> Watch | None:
        return self._watches.get(run_id)

    def all(self) -> list[Watch]:
        return list(self._watches.values())

    @property
    def ring_bytes(self) -> int:
        """Bytes of encoded events that all watches keep for clients to come, as last counted."""
        return self._ring_bytes

    @property
    def idle_runs(self) -> int:
        """Watches without sessions."""
        return len(self._idle)

    # ------------------------------------------------------------------ sessions come and go

    def open(self, run_id: str) -> Watch:
        """The run's watch, new or not; `hold` it. It may still be opening: await `opened`, shielded."""
        watch = self._watches.get(run_id)
        if watch is None:
            watch = self._watches[run_id] = Watch(run_id, self._parts)
            # A task of its own: the client that came first may leave, while those that came later still want the watch.
            watch.opened = asyncio.create_task(self._opening(watch), name=f"watch of {run_id}")
            # Clients that wait hear of a failure; nobody else needs to.
            watch.opened.add_done_callback(lambda opened: opened.cancelled() or opened.exception())
        return watch

    async def _opening(self, watch: Watch) -> None:
        try:
            await watch.subscribe()
            await watch.locate()
        except BaseException:
            self._forget(watch)
            await watch.aclose()
            raise

    def hold(self, watch: Watch, session: Holder) -> None:
        """Keeps the watch open for the session."""
        watch.sessions[session] = None
        self._idle.pop(watch, None)

    def leave(self, watch: Watch, session: Holder) -> None:
        """Gives up what `hold` gave."""
        del watch.sessions[session]
        if watch.sessions:
            return
        watch.idle_since = monotonic()
        if self._watches.get(watch.run_id) is watch:  # else it could not be opened
            self._idle[watch] = None
            watch.rest()
            self.count(watch)

    # ------------------------------------------------------------------ bounds

    def count(self, watch: Watch) -> None:
        """Counts the frames that a watch keeps, and keeps all of them within bounds."""
        self._count(watch)
        self.keep_within_bounds()

    def _count(self, watch: Watch) -> None:
        if self._watches.get(watch.run_id) is watch:
            counted, watch.ring_bytes = watch.ring_bytes, watch.tail.ring.bytes
            self._ring_bytes += watch.ring_bytes - counted

    def keep_within_bounds(self) -> None:
        """Lets go of idle watches, the longest idle first, then of frames that followers already have."""
        limits = self._parts.limits
        while self._idle and (len(self._idle) > limits.idle_runs or self._ring_bytes > limits.ring_bytes):
            watch = next(iter(self._idle))
            self._forget(watch)
            watch.shed()
            self._let_go.append(watch)
        if self._ring_bytes > limits.ring_bytes:
            for watch in self._watches.values():
                watch.shed()
                self._count(watch)
                if self._ring_bytes <= limits.ring_bytes // 2:  # not again at once
                    return

    async def tend(self, now: float) -> None:
        """One step: closes watches that are idle for long or let go of, and keeps the others within bounds."""
        for watch in tuple(self._idle):
            if now - watch.idle_since >= LINGER_S:
                await self._close(watch)
        for watch in self.all():
            self._count(watch)
        self.keep_within_bounds()
        while self._let_go:
            await self._close(self._let_go.pop())

    async def check(self, now: float, *, silent: bool) -> None:
        """One step: reads the positions of runs that lack something or heard nothing for long.

        Ends the streams of runs that are gone.
        """
        await self._parts.catch_up.check(self.all(), now=now, silent=silent)
        for watch in [watch for watch in self.all() if watch.tail.lost]:
            for session in watch.sessions:
                session.ask_to_end(DisconnectReason.ERROR)
            await self._close(watch)

    def recheck(self) -> None:
        """Makes every run due for a check: the bus may have lost messages."""
        for watch in self.all():
            watch.tail.check_at = 0.0

    def lose_all(self) -> None:
        """Counts every run as gone: the next check ends its streams and closes its watch."""
        for watch in self.all():
            watch.tail.lose()

    async def aclose(self) -> None:
        """Closes every watch. Sessions have ended before."""
        for watch in (*self.all(), *self._let_go):
            await self._close(watch)

    async def _close(self, watch: Watch) -> None:
        if not watch.opened.done():
            watch.opened.cancel()
            await asyncio.gather(watch.opened, return_exceptions=True)
        # Out of the register first: a client that comes from here on gets a new watch.
        self._forget(watch)
        self._parts.catch_up.forget(watch)
        await watch.aclose()

    def _forget(self, watch: Watch) -> None:
        if self._watches.get(watch.run_id) is watch:
            del self._watches[watch.run_id]
        self._idle.pop(watch, None)
        self._ring_bytes -= watch.ring_bytes
        watch.ring_bytes = 0
