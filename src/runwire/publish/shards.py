"""A publisher's shards: it renews them, takes those of dead publishers, and releases some to new ones."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from runwire.clock import wait_until_set
from runwire.db import Database, load_sql
from runwire.duties import Duty
from runwire.publish.assignment import SHARDS, next_change, shard_of
from runwire.telemetry.asyncpg_spans import suppressed
from runwire.telemetry.logs import LogEvent, get_logger

_SQL: Final = load_sql("runwire.publish", "shards.sql")
_LOCKS: Final = 0x72777075  # the class of publishers' advisory locks: "rwpu"
_ALL: Final = frozenset(range(SHARDS))
_RESTLESS_S: Final = 0.1

_log = get_logger()


class Shards:
    """This publisher's shards. `step` looks once at the live publishers and their shards; `run` is its loop.

    The shards it believes to own decide which hints it heeds. The claim checks the shards it owns by the table. So a
    publisher that hung while others took its shards publishes nothing of them when it wakes up.
    """

    def __init__(
        self,
        database: Database,
        *,
        publisher_id: str,
        lease_s: float,
        tell_others: Callable[[], None] = lambda: None,
    ) -> None:
        """`lease_s`: seconds that others wait for a publisher that hangs.

        `tell_others` is called when shards become free, or are wanted.
        """
        self.publisher_id = publisher_id
        self.owned: frozenset[int] = frozenset()
        self._session = database.session("publish lease")
        self._attempts = database.attempts(Duty.LEASE_SHARDS)
        self._lease_s = lease_s
        self._tell_others = tell_others
        self._locked_in = -1
        self._lock_key = 0
        self._joined = False
        self._wake = asyncio.Event()
        self._restless = True

    def divide(self, run_ids: Iterable[str]) -> tuple[list[str], list[str]]:
        """The runs of this publisher and those of others, each in order."""
        if self.owned == _ALL:
            return list(run_ids), []
        ours: list[str] = []
        others: list[str] = []
        for run_id in run_ids:
            (ours if shard_of(run_id) in self.owned else others).append(run_id)
        return ours, others

    def wake(self) -> None:
        """Makes the next step come now, because other publishers joined, left or released shards."""
        self._wake.set()

    async def step(self, *, let_go: Callable[[], Awaitable[None]]) -> bool:
        """One step. Returns whether it took shards, whose unpublished events had no hints. Raises DatabaseUnavailable.

        `let_go` returns when all earlier claims have ended; shards are released after that.
        """
        await self._renew()
        members = await self._session.fetch(_SQL["members"], self.publisher_id, _LOCKS)
        owners: list[str | None] = [row["publisher_id"] for row in await self._session.fetch(_SQL["owners"])]
        alive = [row["publisher_id"] for row in members if row["alive"]]
        plan = next_change(self.publisher_id, alive=alive, owners=owners)
        owned = {shard for shard, owner in enumerate(owners) if owner == self.publisher_id}
        if plan.take:
            expected = [owners[shard] for shard in plan.take]
            rows = await self._session.fetch(_SQL["take"], self.publisher_id, plan.take, expected)
            owned |= {row["shard"] for row in rows}
        took = not owned <= self.owned
        self.owned = frozenset(owned.difference(plan.release))
        if plan.release:
            await let_go()
            await self._session.fetch(_SQL["release"], self.publisher_id, plan.release)
        if dead := [row["publisher_id"] for row in members if not row["alive"]]:
            await self._session.fetch(_SQL["bury"], dead)
        if plan.take or plan.release:
            await self._renew()  # with what it has now
            _log.info(LogEvent.SHARDS_CHANGED, owned=len(self.owned), publishers=len(alive) + 1, dead=dead)
        if plan.release or not self._joined:
            self._tell_others()
        self._joined = True
        self._restless = len(self.owned) < plan.part
        return took

    async def run(self, *, let_go: Callable[[], Awaitable[None]], on_taken: Callable[[], None]) -> None:
        """Steps until cancelled. While the database is away it keeps its shards, since no other could take them."""
        with suppressed():
            while True:
                with self._attempts:
                    if await self.step(let_go=let_go):
                        on_taken()
                if self._attempts.failures:
                    await asyncio.sleep(min(self._attempts.pause_s, self._lease_s / 8))
                else:
                    await wait_until_set(self._wake, within_s=_RESTLESS_S if self._restless else self._lease_s / 8)
                self._wake.clear()

    async def aclose(self) -> None:
        """Ends the session and its lock, so that others may take all shards still owned."""
        await self._session.aclose()
        self._tell_others()

    async def _renew(self) -> None:
        if not self._session.is_open or self._locked_in != self._session.opened:
            # A key of its own for each connection: the server may not have noticed yet that the last one is gone.
            key = secrets.randbits(31)
            await self._session.fetch(_SQL["hold_lock"], _LOCKS, key)
            self._locked_in, self._lock_key = self._session.opened, key
        await self._session.fetch(_SQL["renew"], self.publisher_id, self._lock_key, self._lease_s, sorted(self.owned))
