"""Runs that begin to match: one look of a process serves all its streams, whatever they select.

A look asks for the runs that were created since the one before, and a moment earlier: a start becomes visible when it
commits. Every few seconds it goes back much further. So a look costs one statement, which finds nothing while nothing
starts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from runwire.clock import monotonic
from runwire.db import Database
from runwire.model.run import DEFAULT_TENANT
from runwire.stream.many.checkpoints import SQL
from runwire.stream.many.members import LATE_US
from runwire.stream.many.merged import MergedSession

SOON_S: Final = 2.0
"""Nearly every run is visible so soon."""
FAR_S: Final = 5.0
"""Seconds between looks that go back by all of `LATE_US`."""
SCAN_MAX: Final = 5000
"""Runs of a tenant that a look takes."""


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A run that a stream may take in. `created_us` is when it was created (epoch us)."""

    run_id: str
    created_us: int


@dataclass
class _Asked:
    """The streams of one tenant, by what they select."""

    by_session: dict[str, list[MergedSession]] = field(default_factory=dict)
    by_labels: list[MergedSession] = field(default_factory=list)


class Newcomers:
    """Finds runs that match open streams."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looked_at = self._far_at = monotonic()

    async def look(self, streams: Iterable[MergedSession]) -> tuple[dict[MergedSession, list[Newcomer]], bool]:
        """New runs by the stream that they match, the oldest first; and whether these are all.

        Raises DatabaseFailed; the next look goes back as far as this one would have.
        """
        by_tenant: dict[str, _Asked] = {}
        keys: set[str] = set()
        for stream in streams:
            asked = by_tenant.setdefault(stream.tenant or DEFAULT_TENANT, _Asked())
            if stream.selector.session is not None:
                asked.by_session.setdefault(stream.selector.session, []).append(stream)
            else:
                asked.by_labels.append(stream)
                keys |= stream.selector.labels.keys()
        if not by_tenant:
            return {}, True
        now = monotonic()
        far = now - self._far_at >= FAR_S
        rows = await self._database.fetch(
            SQL["fresh"],
            list(by_tenant),
            now - self._far_at + FAR_S + LATE_US / 1e6 if far else now - self._looked_at + SOON_S,
            sorted({session for asked in by_tenant.values() for session in asked.by_session}),
            sorted(keys),
            SCAN_MAX,
        )
        self._looked_at = now
        if far:
            self._far_at = now
        found: dict[MergedSession, list[Newcomer]] = {}
        for row in rows:
            newcomer = Newcomer(row["run_id"], row["created_us"])
            asked = by_tenant[row["tenant"]]
            labels = msgspec.json.decode(row["labels"], type=dict[str, str]) if asked.by_labels else {}
            for stream in (
                *asked.by_session.get(row["session"] or "", ()),
                *[stream for stream in asked.by_labels if stream.selector.labels.items() <= labels.items()],
            ):
                found.setdefault(stream, []).append(newcomer)
        return found, len(rows) < SCAN_MAX
