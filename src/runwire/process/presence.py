"""The heartbeat of a process, whatever its roles: a row that others read, since a dead process tells nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from runwire.clock import JITTER
from runwire.db import Database, load_sql
from runwire.duties import Duty
from runwire.errors import DatabaseFailed
from runwire.process.context import Context
from runwire.telemetry.asyncpg_spans import suppressed

BEAT_S: Final = 5.0
AGENTS_TOLD_MAX: Final = 1000
_SQL: Final = load_sql("runwire.process", "presence.sql")


def _none() -> int:
    return 0


@dataclass(slots=True)
class Work:
    """The work of a process. Roles put their own numbers in place."""

    slots: int = 0
    """Runs that it can walk at a time."""
    walking: Callable[[], int] = _none
    """Runs that it walks now."""
    streams: Callable[[], int] = _none
    """Streams that are open now."""


class Presence:
    """`beat` is its step, `run` its loop. `leave` removes the row of a process that stops."""

    def __init__(
        self,
        database: Database,
        *,
        worker_id: str,
        version: str,
        roles: Sequence[str],
        agents: Sequence[str],
        work: Work,
    ) -> None:
        # Where hosts share a name, as copies of a container may, so do their processes' ids.
        self.process_id = f"{worker_id}:{os.getpid()}:{secrets.token_hex(2)}"
        self._database = database
        self._version = version
        self._roles = list(roles)
        self._agents = list(agents[:AGENTS_TOLD_MAX])
        self._work = work

    async def beat(self) -> None:
        """Raises DatabaseFailed."""
        work = self._work
        await self._database.execute(
            _SQL["beat"],
            self.process_id,
            socket.gethostname(),
            os.getpid(),
            self._version,
            self._roles,
            self._agents,
            work.slots,
            work.walking(),
            work.streams(),
        )

    async def run(self) -> None:
        """Beats until cancelled."""
        attempts = self._database.attempts(Duty.BEAT)
        with suppressed():
            while True:
                with attempts:
                    await self.beat()
                # Processes that a deploy started together do not go on writing together.
                await asyncio.sleep(max(JITTER.uniform(0.8, 1.0) * BEAT_S, attempts.pause_s))

    async def leave(self) -> None:
        """A row that stays is forgotten in an hour."""
        with contextlib.suppress(DatabaseFailed):
            await self._database.execute(_SQL["leave"], self.process_id)


async def offer_work(context: Context) -> None:
    """Offers Work, for roles to put their numbers in."""
    context.offer(Work, Work())


async def start(context: Context) -> None:
    """Says that this process lives, until the ground closes."""
    presence = Presence(
        context.database,
        worker_id=context.settings.worker_id,
        version=context.version,
        roles=[role.value for role in context.settings.roles],
        agents=context.agents.names,
        work=context.part(Work),
    )
    context.phases.ground.push_async_callback(presence.leave)
    context.keep(context.phases.ground, Duty.BEAT, "presence", presence.run)
