"""Claims runs by lease, walks them, renews the leases, and abandons runs that it lost."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable

from runwire.append import EventLog
from runwire.clock import wait_until_set
from runwire.content import Artifacts
from runwire.db import Database, load_sql
from runwire.duties import Duty
from runwire.errors import DatabaseFailed, FenceStale, RunClosed, RunwireError
from runwire.model.graph import Agents
from runwire.model.run import RunState
from runwire.orchestrate.beat import Beat
from runwire.orchestrate.claim import Claim
from runwire.orchestrate.node_parts import PartDesk
from runwire.orchestrate.node_try import Threads
from runwire.orchestrate.orchestrator import Walk
from runwire.orchestrate.seat import Seat, Seats
from runwire.orchestrate.settings import OrchestrateSettings
from runwire.orchestrate.timers import Timers
from runwire.telemetry.logs import LogEvent, get_logger
from runwire.telemetry.metrics import Metrics
from runwire.telemetry.spans import Spans

_SQL = load_sql("runwire.orchestrate", "orchestrate.sql")
_CLAIM_MAX = 100
_log = get_logger()


class Worker:
    """Walks claimed runs, at most `concurrency` at once. `claim` and `heartbeat` are its steps, `run` is its loop."""

    def __init__(
        self,
        database: Database,
        log: EventLog,
        agents: Agents,
        *,
        metrics: Metrics,
        spans: Spans,
        worker_id: str,
        settings: OrchestrateSettings,
        on_claimable: Callable[[str], None] = lambda _agent: None,
        beat: Beat | None = None,
        artifacts: Artifacts | None = None,
        desk: PartDesk | None = None,
    ) -> None:
        """`beat` tells a watch which node is at work. Without `artifacts` nodes can store none, without `desk` write no
        parts.
        """
        self._database = database
        self._log = log
        self._agents = agents
        self._artifacts = artifacts
        self._metrics = metrics
        self._spans = spans
        self._worker_id = worker_id
        self._settings = settings
        self._on_claimable = on_claimable
        self._threads = Threads(settings.worker_threads)
        self._beat = beat or Beat()
        self._timers = Timers(database)
        self._desk = desk
        self._walks: dict[str, Walk] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._seats = Seats(worker_id, lease_s=settings.lease_s, begin=self._begin_seated, on_doubt=self.wake)
        self._crowded = True
        """Whether older runs may wait for a permit, so that a new start must queue behind them."""
        self._context: contextvars.Context | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self._drained = asyncio.Event()

    @property
    def active(self) -> int:
        """Runs this worker is walking."""
        return len(self._walks)

    def held(self) -> dict[str, int]:
        """The fence of every run this worker is walking. Callable from any thread."""
        return {run_id: walk.claim.fence for run_id, walk in tuple(self._walks.items())}

    def wake(self) -> None:
        """Looks for claimable runs at once instead of at the next poll."""
        self._wake.set()

    def seat(self, run_id: str, agent: str) -> Seat | None:
        """A permit for a run about to be started; None when it must wait in the queue, or for another worker.

        Only for a worker whose loop runs and left nothing unclaimed: a new run overtakes no older one.
        """
        room = self._room
        if self._crowded or self._stopping or self._context is None or room <= 0 or self._agents.get(agent) is None:
            return None
        return self._seats.give(run_id)

    @property
    def _room(self) -> int:
        return self._settings.worker_concurrency - len(self._walks) - self._seats.taken

    def cancel(self, run_id: str) -> None:
        """Interrupts a run that is walked here, because its cancellation was requested."""
        walk = self._walks.get(run_id)
        if walk is not None:
            walk.cancel()

    async def run(self) -> None:
        """Claims and walks until cancelled or drained."""
        self._context = contextvars.copy_context()
        claims = self._database.attempts(Duty.CLAIM)
        heartbeat = asyncio.create_task(self._keep_leases(), name="leases")
        heartbeat.add_done_callback(lambda _: self._wake.set())
        try:
            while not self._stopping:
                if heartbeat.done():  # never by itself: without it every lease would end in silence
                    heartbeat.result()
                self._wake.clear()
                claimed = 0
                rest_s = self._settings.worker_poll_s
                with claims:
                    claimed = await self.claim()
                    if not self._crowded:
                        rest_s = await self._timers.rest_s(list(self._agents.names), at_most_s=rest_s)
                if claims.failures:
                    await asyncio.sleep(claims.pause_s)
                elif claimed < _CLAIM_MAX:
                    await wait_until_set(self._wake, within_s=rest_s)
            await self._drained.wait()
        finally:
            try:
                await self._finish_walks()
            finally:  # whatever that came to
                heartbeat.cancel()
                await asyncio.gather(heartbeat, return_exceptions=True)

    async def drain(self, *, within_s: float) -> None:
        """Claims nothing more, lets running nodes reach their checkpoint, and hands every run over."""
        self._stopping = True
        self._wake.set()
        for walk in self._walks.values():
            walk.drain()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks.values()), timeout=within_s)
        self._drained.set()

    async def claim(self) -> int:
        """One step: claims runs up to the permits left and starts to walk them. Returns how many."""
        await self._disown()
        room = min(self._room, _CLAIM_MAX)
        if room <= 0 or self._stopping:
            self._crowded = True
            return 0
        rows = await self._database.fetch(
            _SQL["claim"], list(self._agents.names), room, self._worker_id, self._settings.lease_s
        )
        for row in rows:
            claim = Claim(**row)
            if claim.timer_late_s is not None:
                self._metrics.timer_lateness.observe(max(claim.timer_late_s, 0.0))
            self._begin(claim)
        self._crowded = len(rows) == room
        return len(rows)

    async def heartbeat(self) -> None:
        """One step: renews every lease, passes on cancellations, and abandons runs that another worker took."""
        held = self.held()
        if not held:
            return
        rows = await self._database.fetch(_SQL["heartbeat"], list(held), list(held.values()), self._settings.lease_s)
        for row in rows:
            walk = self._walks.get(row["run_id"])
            if walk is None or walk.claim.fence != held[row["run_id"]]:
                continue
            if row["lost"]:
                self._lose(walk)
            elif row["cancel_requested"]:
                walk.cancel()

    def _begin_seated(self, claim: Claim) -> None:
        """In the worker's context, not in that of the request that started the run."""
        if self._context is None or self._stopping:
            self._seats.doubt(claim.run_id)
        else:
            self._context.run(self._begin, claim)

    def _begin(self, claim: Claim) -> None:
        agent = self._agents.get(claim.agent)
        if agent is None:  # the claim asks for this worker's agents only
            raise AssertionError(claim.agent)
        previous = self._walks.get(claim.run_id)
        if previous is not None:  # its lease ended while it was walked here: that walk is fenced out
            self._lose(previous)
        walk = Walk(
            claim,
            agent,
            self._log,
            metrics=self._metrics,
            spans=self._spans,
            beat=self._beat,
            hand_over=self._release,
            threads=self._threads,
            artifacts=self._artifacts,
            state_max_bytes=self._settings.state_max_bytes,
            desk=self._desk,
        )
        self._walks[claim.run_id] = walk
        self._tasks[claim.run_id] = asyncio.create_task(self._walk(walk), name=f"walk {claim.run_id}")

    def _lose(self, walk: Walk) -> None:
        _tell_lost(walk)
        walk.lose()
        self._tasks[walk.claim.run_id].cancel()

    async def _walk(self, walk: Walk) -> None:
        run_id = walk.claim.run_id
        reached: RunState | None = None
        try:
            reached = await walk.run()
        except (FenceStale, RunClosed):  # closed: whoever took the run over has brought it to its end
            _tell_lost(walk)
            return
        except RunwireError as error:
            # The log refused what this walk believes: its belief is wrong, so another starts from what is stored.
            # Not released: should the log refuse that one too, the lease is the pause between the two.
            _log.error(LogEvent.APPEND_FAILED, run_id=run_id, code=error.code)
            return
        except Exception as error:  # noqa: BLE001  # a bug in one walk is not the end of the others
            _log.error(LogEvent.TASK_FAILED, task="walk", run_id=run_id, error_type=type(error).__name__)
            return
        finally:
            self._forget(walk)
            if walk.timed:
                self._timers.changed()
            if self._crowded or reached is RunState.WAITING:
                self._wake.set()  # there is room again, or a signal was there before the run waited for it

    def _forget(self, walk: Walk) -> None:
        run_id = walk.claim.run_id
        if self._walks.get(run_id) is walk:
            del self._walks[run_id]
            del self._tasks[run_id]

    async def _release(self, walk: Walk) -> bool:
        """Releases the lease and returns whether that worked; otherwise the lease ends by itself."""
        self._forget(walk)  # no heartbeat renews what is given back
        try:
            released = await self._database.execute(_SQL["release"], walk.claim.run_id, walk.claim.fence)
        except DatabaseFailed:
            return False
        self._on_claimable(walk.claim.agent)
        return released != "UPDATE 0"

    async def _disown(self) -> None:
        """Releases the runs that were started for this worker and are not walked here."""
        if doubtful := self._seats.doubtful:
            await self._database.execute(_SQL["disown"], doubtful, self._worker_id)
            self._seats.settle(doubtful)

    async def _keep_leases(self) -> None:
        attempts = self._database.attempts(Duty.RENEW_LEASES)
        while True:
            await asyncio.sleep(
                min(attempts.pause_s or self._settings.lease_heartbeat_s, self._settings.lease_heartbeat_s)
            )
            with attempts:
                await self.heartbeat()

    async def _finish_walks(self) -> None:
        walks = tuple(self._walks.values())
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Each has let go of its run, but for those that were cancelled before they began.
        await asyncio.gather(*(self._release(walk) for walk in walks if walk in self._walks.values()))
        await self._seats.all_left()  # starts under way, each bounded by the time-out of its statement
        with contextlib.suppress(DatabaseFailed):  # their leases end by themselves
            await self._disown()


def _tell_lost(walk: Walk) -> None:
    """Once, however the worker came to know."""
    if not walk.lost:
        _log.warning(LogEvent.LEASE_LOST, run_id=walk.claim.run_id, fence=walk.claim.fence)
