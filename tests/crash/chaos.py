"""Kills and freezes members of a fleet at random, and brings them back."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from crash.fleet import START_S, Fleet, Member
from waiting import eventually

ROLES = ("api", "worker", "publisher")
FREEZE_S = (2.2, 3.0)
"""Longer than the lease of a fleet with QUICK_TAKEOVER."""


class Chaos:
    """`kills` and `freezes` count what was done, by role."""

    def __init__(self, fleet: Fleet, *, rng: random.Random) -> None:
        self._fleet = fleet
        self._rng = rng
        self._busy: set[str] = set()
        self.kills: Counter[str] = Counter()
        self.freezes: Counter[str] = Counter()

    async def run(self, *, kills: int, freezes: int, gap_s: tuple[float, float]) -> None:
        """Does so many of each, `gap_s` apart; returns when everybody is back. Every role has its share."""
        deeds = [(self._kill, role) for role in self._spread(kills)]
        deeds += [(self._freeze, role) for role in self._spread(freezes, first="worker")]
        self._rng.shuffle(deeds)
        async with asyncio.TaskGroup() as under_way:
            for deed, role in deeds:
                member = await self._idle(role)
                self._busy.add(member.name)
                under_way.create_task(deed(role, member))
                await asyncio.sleep(self._rng.uniform(*gap_s))

    def _spread(self, count: int, *, first: str = "api") -> list[str]:
        return [*([first] * min(count, 1)), *(ROLES[number % len(ROLES)] for number in range(1, count))]

    async def _idle(self, role: str) -> Member:
        def idle() -> list[Member]:
            return [member for member in self._fleet.of(role) if member.name not in self._busy]

        return self._rng.choice(await eventually(idle, within_s=START_S))

    async def _kill(self, role: str, member: Member) -> None:
        member.kill()
        self.kills[role] += 1
        await asyncio.sleep(self._rng.choice((0.0, self._rng.uniform(0, 0.5))))
        await member.start()
        self._busy.discard(member.name)

    async def _freeze(self, role: str, member: Member) -> None:
        with member.frozen():
            self.freezes[role] += 1
            await asyncio.sleep(self._rng.uniform(*FREEZE_S))
        self._busy.discard(member.name)
