"""The logs of runs as PostgreSQL has them: how far they go, how much is published, and the events themselves."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from runwire.db import Database, Row, Statements, Troubles, load_sql, seen_by
from runwire.errors import CursorExpired, CursorPastTail, DatabaseFailed, DatabaseUnavailable, RunNotFound
from runwire.model.event import StoredEvent
from runwire.model.run import TERMINAL, RunState

_SQL: Final = load_sql("runwire.stream", "stream.sql")


@dataclass(frozen=True, slots=True)
class Position:
    """A run's log at one moment: seqs up to `last_seq` exist, and clients may see those up to `published`."""

    run_id: str
    run_day: dt.date
    state: RunState
    last_seq: int
    published: int
    traceparent: str | None = None

    @property
    def closed(self) -> bool:
        """The log is complete; RunFinished is event `last_seq`."""
        return self.state in TERMINAL


@dataclass(frozen=True, slots=True)
class Stretch:
    """Part of a run's log: the events `after` < seq <= `upto`. A Position or the bus named both."""

    run_id: str
    run_day: dt.date
    after: int
    upto: int


@dataclass(frozen=True, slots=True)
class Page:
    """Published events in order. With `has_more`, more are published already.

    With `closed`, the run is closed and published to its end, so the same request gets the same page for ever.
    """

    events: tuple[StoredEvent, ...]
    has_more: bool
    closed: bool
    last_seq: int


class ArchivedLog(Protocol):
    """The events of archived runs, which PostgreSQL no longer has."""

    async def events(self, run_id: str, *, after: int, upto: int, limit: int) -> tuple[StoredEvent, ...] | None:
        """As `LogReader.events`, at least one; None for a run that was never archived. May raise ArchiveUnavailable."""


class LogReader:
    """Reads of the log. Every method raises DatabaseUnavailable when PostgreSQL does not answer."""

    def __init__(self, database: Database, *, cold: ArchivedLog | None = None, tenant: str | None = None) -> None:
        """`cold` supplies events that a closed run should have and PostgreSQL lacks; other reads never wait for it.

        With a `tenant`, the runs of other tenants do not exist.
        """
        self._whole_database = database
        self._database: Statements = seen_by(database, tenant)
        self._cold = cold
        self._asked: dict[str, asyncio.Future[Position | DatabaseFailed | None]] = {}
        self._answering: asyncio.Task[None] | None = None

    @property
    def troubles(self) -> Troubles:
        """Of the process, on the database it reads from."""
        return self._whole_database.troubles

    def on_behalf_of(self, tenant: str | None) -> LogReader:
        """The same for one tenant; for None, this one."""
        return self if tenant is None else LogReader(self._whole_database, cold=self._cold, tenant=tenant)

    async def position(self, run_id: str) -> Position:
        """The position as of some moment after the call. Raises RunNotFound.

        Calls that come while a statement is under way share the next one: after a restart thousands of watches ask at
        once, and the pool has ten connections.
        """
        waiter = self._asked.get(run_id)
        if waiter is None:
            waiter = self._asked[run_id] = asyncio.get_running_loop().create_future()
            if self._answering is None:
                self._answering = asyncio.create_task(self._answer(), name="positions")
        found = await asyncio.shield(waiter)
        if isinstance(found, DatabaseFailed):
            raise DatabaseUnavailable(str(found)) from found
        if found is None:
            raise RunNotFound(run_id)
        return found

    async def _answer(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, {}
                found: Mapping[str, Position] = {}
                failure: DatabaseFailed | None = None
                try:
                    found = await self.positions(list(asked))
                except DatabaseFailed as error:
                    failure = error
                finally:
                    for run_id, waiter in asked.items():
                        if not waiter.done():
                            waiter.set_result(failure or found.get(run_id))
        finally:
            self._answering = None

    async def positions(self, run_ids: Sequence[str]) -> Mapping[str, Position]:
        """Positions by run id, in one statement; leaves out runs that do not exist."""
        rows = await self._database.fetch(_SQL["positions"], run_ids)
        return {
            row["run_id"]: Position(
                row["run_id"],
                row["run_day"],
                RunState(row["state"]),
                row["last_seq"],
                row["published"],
                row["traceparent"],
            )
            for row in rows
        }

    async def events(self, stretch: Stretch, *, limit: int) -> tuple[StoredEvent, ...]:
        """The first `limit` events of the stretch: dense, from `after + 1`.

        Raises CursorExpired when the first of them is gone, and ArchiveUnavailable when the archive does not answer.
        """
        rows = await self._database.fetch(
            _SQL["events"], stretch.run_day, stretch.run_id, stretch.after, stretch.upto, limit
        )
        events = tuple(map(StoredEvent._make, rows))
        if stretch.upto > stretch.after and (not events or events[0].seq != stretch.after + 1):
            if self._cold is not None:
                archived = await self._cold.events(stretch.run_id, after=stretch.after, upto=stretch.upto, limit=limit)
                if archived is not None:
                    return archived
            raise CursorExpired(stretch.run_id, earliest_seq=events[0].seq if events else stretch.upto + 1)
        return events

    async def tails(self, stretches: Sequence[Stretch], *, limit: int) -> list[list[StoredEvent]]:
        """The first `limit` events of each stretch, in the order of `stretches`, in one statement."""
        rows: list[Row] = await self._database.fetch(
            _SQL["tails"],
            range(len(stretches)),
            [stretch.run_day for stretch in stretches],
            [stretch.run_id for stretch in stretches],
            [stretch.after for stretch in stretches],
            [stretch.upto for stretch in stretches],
            limit,
        )
        found: list[list[StoredEvent]] = [[] for _ in stretches]
        for i, *event in rows:
            found[i].append(StoredEvent._make(event))
        return found

    async def page(self, run_id: str, *, after: int, limit: int) -> Page:
        """At most `limit` published events with a seq above `after`; an empty page where there is none yet.

        Raises RunNotFound, CursorPastTail when `after` is past the log's last seq, CursorExpired when events after
        it are gone, and ArchiveUnavailable.
        """
        position = await self.position(run_id)
        if after > position.last_seq:
            raise CursorPastTail(run_id, cursor=after, last_seq=position.last_seq)
        events: tuple[StoredEvent, ...] = ()
        if after < position.published:
            stretch = Stretch(run_id, position.run_day, after, position.published)
            events = await self.events(stretch, limit=limit)
        shown = events[-1].seq if events else after
        return Page(
            events,
            has_more=shown < position.published,
            closed=position.closed and position.published == position.last_seq,
            last_seq=position.last_seq,
        )
