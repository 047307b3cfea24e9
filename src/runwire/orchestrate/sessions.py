"""A worker proves by a session with PostgreSQL that it is alive. Others take the runs of a worker without session.

The kernel closes the sockets of a process that dies, and PostgreSQL ends their sessions: so a death is known at once,
however long the lease. A worker that is cut off from the network, or frozen, keeps its session; its lease ends.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from runwire.clock import monotonic
from runwire.db import Row, Session, load_sql
from runwire.orchestrate.settings import DEFAULTS
from runwire.telemetry.logs import LogEvent, get_logger

_SQL: Final = load_sql("runwire.orchestrate", "sessions.sql")
_RENEW: Final = load_sql("runwire.orchestrate", "orchestrate.sql")["heartbeat"]
_log = get_logger()

LOOK_S: Final = 0.2
GONE_S: Final = 0.35
"""Seconds for which a session must be missing. A live worker that was cut off is back earlier."""
SETTLE_S: Final = 1.5
"""Seconds for which all workers may reconnect after the server started or this worker lost its own session."""
BACKOFF_S: Final = 2.0
"""Seconds before a run that lost its worker twice is tried again; doubled with each further loss."""


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """A worker as others see it. `worker_id` names this start of the process; a restart has a new one."""

    worker_id: str
    agents: Sequence[str]
    slots: int
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)


@dataclass(frozen=True, slots=True)
class Taken:
    """Runs whose lease was ended because their worker is gone, by agent."""

    workers: tuple[str, ...]
    agents: frozenset[str]
    runs: int
    again: int
    """Runs that had lost a worker before, and have finished no node since."""


NOTHING: Final = Taken((), frozenset(), 0, 0)


class WorkerSession:
    """The session of one worker; used by one task, in one event loop. Every step may raise DatabaseUnavailable."""

    def __init__(
        self, session: Session, facts: WorkerFacts, *, losses_max: int = DEFAULTS.losses_max, settle_s: float = SETTLE_S
    ) -> None:
        """A run is failed when `losses_max` workers have died with it."""
        self._session = session
        self._facts = facts
        self._losses_max = losses_max
        self._settle_s = settle_s
        self._held = 0
        self._quiet_until = 0.0
        self._enlisted = False
        self._missing_since: dict[str, float] = {}
        self.clear = False
        """Whether the newest look found no session missing, so that every death is known and counted."""

    @property
    def held(self) -> bool:
        """Whether this session proves that the worker is alive. Does not ask the database."""
        return self._session.is_open and self._held == self._session.opened

    async def hold(self) -> bool:
        """One step: proves again, if needed, that the worker is alive, and returns whether it could."""
        if self.held:
            return True
        again = self._enlisted
        rows = await self._session.fetch(_SQL["hold"], self._facts.worker_id)
        if not rows[0]["held"]:
            return False
        self._held = self._session.opened
        await self._enlist()
        if again:  # whatever ended this session may have ended others', and they come back, too
            self._quiet_until = monotonic() + self._settle_s
        return True

    async def look(self) -> Taken:
        """One step: takes the runs of workers whose session has been missing for GONE_S, and returns them."""
        self.clear = False
        if not await self.hold() or monotonic() < self._quiet_until:
            return NOTHING
        missing = await self._session.fetch(_SQL["look"], self._facts.worker_id, self._settle_s)
        self.clear = not missing
        rows = [row for row in missing if not row["settling"]]
        now = monotonic()
        self._missing_since = {row["worker_id"]: self._missing_since.get(row["worker_id"], now) for row in rows}
        gone = [worker_id for worker_id, since in self._missing_since.items() if now - since >= GONE_S]
        return await self._bury(gone) if gone else NOTHING

    async def renew(self, held: Mapping[str, int], *, lease_s: float) -> list[Row]:
        """One step: renews leases, run id to fence, and says that the worker was seen.

        The rows say of each run whether it is lost, and whether its cancellation was requested.
        """
        if not await self._session.fetch(_SQL["seen"], self._facts.worker_id):
            await self._enlist()
        if not held:
            return []
        return await self._session.fetch(_RENEW, list(held), list(held.values()), lease_s)

    async def tell_block(self, run_id: str, *, node: str, at: str, blocked_s: float) -> None:
        """One step: records that the run's node has blocked this worker's event loop for `blocked_s` seconds."""
        await self._session.fetch(_SQL["block"], run_id, self._facts.worker_id, node, at, blocked_s)

    async def own_up(self, held: Mapping[str, int], *, culprit: str) -> frozenset[str]:
        """One step, before one run ends the process: releases the other runs, and returns their agents."""
        rows = await self._session.fetch(_SQL["own_up"], list(held), culprit, self._facts.worker_id)
        return frozenset(row["agent"] for row in rows)

    async def leave(self) -> None:
        """Removes the worker, which has released all its runs, so that others do not look for it."""
        if self._enlisted:
            await self._session.fetch(_SQL["leave"], self._facts.worker_id)

    async def aclose(self) -> None:
        await self._session.aclose()

    async def _enlist(self) -> None:
        facts = self._facts
        rows = await self._session.fetch(
            _SQL["enlist"], facts.worker_id, facts.host, facts.pid, list(facts.agents), facts.slots
        )
        if rows[0]["anew"] and self._enlisted:  # it was taken for dead
            await self._session.fetch(_SQL["acquit"], facts.worker_id)
        self._enlisted = True

    async def _bury(self, gone: Sequence[str]) -> Taken:
        rows = await self._session.fetch(_SQL["bury"], gone, self._losses_max, BACKOFF_S)
        workers = tuple(dict.fromkeys(row["worker_id"] for row in rows))
        runs = [row for row in rows if row["run_id"] is not None]
        for worker_id in workers:
            of_it = [row for row in runs if row["worker_id"] == worker_id]
            _log.warning(LogEvent.WORKER_LOST, worker=worker_id, runs=len(of_it))
        again = [row for row in runs if (row["losses"] or 0) > 1]
        for row in again:
            _log.warning(LogEvent.RUN_LOST_AGAIN, run_id=row["run_id"], losses=row["losses"])
        return Taken(workers, frozenset(row["agent"] for row in runs), len(runs), len(again))
