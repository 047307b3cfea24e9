"""The room that tenants have left for the bytes of open parts, as one process knows it.

Ended content is counted by tenant. Open parts are added up when somebody asks, so that a part which grows writes no
count. A process asks again after a while, or once it has written a share of the room that it found:

    far from the limit: a query each KNOWN_S at most, for all tenants that write
    near it: a query before each commit, and a tenant at its limit writes nothing more

A tenant passes its limit at most by the commits that are under way when it reaches it, unless more than SHARES
processes write for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from runwire.clock import monotonic
from runwire.db import Row, load_sql

_SQL: Final = load_sql("runwire.content", "parts.sql")
KNOWN_S: Final = 5.0
"""Seconds for which the room that was found is taken for the room there is."""
SHARES: Final = 16
"""One of so many shares of the room may be written before the process asks again: others write, too."""
TENANTS_KEPT: Final = 4096

Fetch: TypeAlias = Callable[..., Awaitable[list[Row]]]
"""Runs a statement: of a database, or of a session."""


@dataclass(slots=True)
class _Room:
    left: int
    share: int
    until: float


class PartQuota:
    """Call `ask` with what is to be written, then `take` for each write of it, without a pause in between."""

    def __init__(self, *, at_most: int) -> None:
        """`at_most` is in bytes of one tenant; 0 is no bound, and costs nothing."""
        self.at_most = at_most
        self._rooms: dict[str, _Room] = {}

    async def ask(self, fetch: Fetch, wanted: Mapping[str, int]) -> None:
        """Finds out how much room there is for so many bytes of each tenant, if it has to. Raises as `fetch` does."""
        if self.at_most and any(self._is_due(tenant, count) for tenant, count in wanted.items()):
            for tenant, used in await fetch(_SQL["usage"], list(wanted)):
                self.learn(tenant, used=used)

    def take(self, tenant: str, count: int) -> bool:
        """Whether the tenant may write so many bytes now. Then they are taken from its room."""
        if not self.at_most:
            return True
        room = self._rooms.get(tenant)
        if room is None or count > room.left:
            return False
        room.left -= count
        room.share -= count
        return True

    def learn(self, tenant: str, *, used: int) -> None:
        """The tenant has stored so many bytes, open parts among them."""
        left = max(self.at_most - used, 0)
        self._rooms.pop(tenant, None)
        if len(self._rooms) >= TENANTS_KEPT:
            del self._rooms[next(iter(self._rooms))]
        self._rooms[tenant] = _Room(left, left // SHARES, monotonic() + KNOWN_S)

    def _is_due(self, tenant: str, count: int) -> bool:
        room = self._rooms.get(tenant)
        return room is None or count > room.share or monotonic() >= room.until
