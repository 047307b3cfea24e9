"""The streams of many runs of a process: who comes, from where it goes on, and which runs join."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import msgspec

from runwire.clock import wait_until_set
from runwire.db import Database, Row, seen_by
from runwire.duties import Duty
from runwire.errors import CursorPastTail, DatabaseFailed, RunNotFound
from runwire.model.run import DEFAULT_TENANT, TERMINAL
from runwire.stream.loops import kept_running
from runwire.stream.many.checkpoints import SQL, Checkpoints
from runwire.stream.many.members import LATE_US
from runwire.stream.many.merged import MergedSession
from runwire.stream.many.newcomers import SCAN_MAX, Newcomer, Newcomers
from runwire.stream.many.positions import RUNS_MAX, ZERO, Positions, parsed_id, stepped
from runwire.stream.many.saving import SavedPositions
from runwire.stream.many.selector import Selector
from runwire.stream.streams import NothingLeft, Streams
from runwire.telemetry.logs import LogEvent, get_logger

LOOK_S: Final = 0.5
COLLECT_S: Final = 60.0

_log = get_logger()


@dataclass(frozen=True, slots=True)
class _Arrival:
    """Where a client begins."""

    positions: Positions
    since_us: int
    over: Mapping[str, bool]
    created_us: Mapping[str, int]
    resumed: bool
    stored: bool
    """Its positions are in a checkpoint, or need none."""
    is_full: bool = False
    """It has no room for a run that matches."""


class ManyStreams:
    """Enter it to start what these streams share: the look for runs that join, and the collection of checkpoints.

    The steps of its loops (`look`, `checkpoints.collect`) can be called by themselves.
    """

    def __init__(
        self, streams: Streams, database: Database, *, runs_max: int, keep_s: float, known_max: int = RUNS_MAX
    ) -> None:
        """A stream has at most `runs_max` runs of which there is something to tell. Checkpoints live for `keep_s`.

        A stream knows at most `known_max` runs, which tests set lower: ids have names for no more.
        """
        self.checkpoints = Checkpoints(database, keep_s=keep_s)
        self.runs_max = runs_max
        self._known_max = known_max
        self._streams = streams
        self._database = database
        self._newcomers = Newcomers(database)
        self._sessions: dict[MergedSession, None] = {}
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(kept_running("runs that join", self._looking), name="streams: runs that join"),
            asyncio.create_task(kept_running("old checkpoints", self._collecting), name="streams: old checkpoints"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def attach(
        self, selector: Selector, *, last_event_id: str | None, tenant: str | None, client: str | None = None
    ) -> AsyncIterator[MergedSession | NothingLeft]:
        """Inside the block the session counts as open. Gives NothingLeft for a list of runs of which all was told.

        Raises RunNotFound, InvalidRequest (`invalid_cursor`), CheckpointGone, CursorPastTail and DatabaseUnavailable,
        all before anything needs to be sent.
        """
        arrival = await self._arrival(selector, last_event_id or None, tenant)
        shared = self._streams.shared
        saved = SavedPositions(
            arrival.positions,
            self.checkpoints,
            tenant=tenant or "",
            digest=selector.digest,
            since_us=arrival.since_us,
            stored=shared.metrics.stream_checkpoints,
        )
        session = MergedSession(
            selector, saved, shared, tenant=tenant or "", over=arrival.over, created_us=arrival.created_us
        )
        session.is_full = arrival.is_full
        if session.open_runs == 0 and not selector.open_ended:
            yield NothingLeft(session.run_id, "", 0)
            return
        try:
            if not arrival.stored:
                await session.saved.checkpoint()
            if arrival.resumed:
                self._streams.note_reconnect(selector.subject, client)
            self._streams.opened(session, resumed=arrival.resumed)
            try:
                if selector.open_ended:
                    self._sessions[session] = None
                    self._wake.set()  # a run may have begun to match meanwhile
                yield session
            finally:
                self._sessions.pop(session, None)
                self._streams.closed(session)
        finally:
            session.let_go()

    def look_soon(self) -> None:
        """A run was started in this process: it may join."""
        if self._sessions:
            self._wake.set()

    async def look(self) -> int:
        """One step: has runs that match join the streams they match; how many joined. Raises DatabaseFailed.

        One statement for all streams. Those that had no room for a run are looked for one by one, and so are all of
        them where more runs are new than a statement takes.
        """
        found, all_of_them = await self._newcomers.look(self._sessions)
        joined = sum([self._offer(session, newcomers) for session, newcomers in found.items()])
        for session in [session for session in self._sessions if session.is_full or not all_of_them]:
            rows = await self._found(session.selector, session.tenant or None, since_us=session.saved.since_us)
            newcomers = [Newcomer(row["run_id"], row["created_us"]) for row in reversed(rows)]
            joined += self._offer(session, newcomers)
        return joined

    def _offer(self, session: MergedSession, newcomers: Sequence[Newcomer]) -> int:
        """Has the runs join, the oldest first; returns how many did."""
        joined = 0
        session.is_full = False
        for newcomer in newcomers:
            if newcomer.run_id in session.runs:
                continue
            if session.open_runs >= self.runs_max:
                session.is_full = True
            elif session.numbered_runs >= self._known_max:
                session.make_room()
                session.is_full = True
                break
            else:
                session.join(newcomer.run_id, created_us=newcomer.created_us)
                joined += 1
        return joined

    # ------------------------------------------------------------------ where a client begins

    async def _arrival(self, selector: Selector, last_event_id: str | None, tenant: str | None) -> _Arrival:
        found: list[Row] = []
        if last_event_id is None:
            positions, since_us = Positions(selector.runs, [0] * len(selector.runs)), 0
        else:
            positions, since_us = await self._resumed(selector, last_event_id, tenant)
        if selector.open_ended:
            found = await self._found(selector, tenant, since_us=since_us)
        rows = await self._members([*positions.runs, *positions.past], tenant)
        created_us = {run_id: row["created_us"] for run_id, row in rows.items()}
        over: dict[str, bool] = {}
        is_full = False
        for run_id, told in zip(positions.runs, positions.sent, strict=True):
            row = rows.get(run_id)
            if row is None:
                if last_event_id is None:
                    raise RunNotFound(run_id)
                over[run_id] = True
                continue
            end = row["last_seq"] + (row["state"] in TERMINAL)
            if told > end:
                raise CursorPastTail(run_id, cursor=told, last_seq=row["last_seq"])
            over[run_id] = row["state"] in TERMINAL and told == end
        if selector.open_ended:
            known = {*positions.runs, *positions.past}
            positions, since_us = self._with_joined(positions, found, since_us, over=over, created_us=created_us)
            is_full = any(row["run_id"] not in known and row["run_id"] not in positions.runs for row in found)
        stored = not selector.open_ended and positions.key == ZERO
        return _Arrival(positions, since_us, over, created_us, last_event_id is not None, stored, is_full)

    async def _resumed(self, selector: Selector, text: str, tenant: str | None) -> tuple[Positions, int]:
        key, steps = parsed_id(text)
        if key == ZERO and not selector.open_ended:
            sent = stepped([0] * len(selector.runs), steps)
            positions = Positions(selector.runs, [0] * len(sent))
            for number, further in steps.items():
                positions.step(number, count=further)
            return positions, 0
        checkpoint = await self.checkpoints.load(key, tenant=tenant, selector=selector.digest)
        return Positions(
            checkpoint.runs or (), stepped(checkpoint.positions, steps), key=key, past=checkpoint.past
        ), checkpoint.since_us

    def _with_joined(
        self,
        positions: Positions,
        found: list[Row],
        since_us: int,
        *,
        over: dict[str, bool],
        created_us: dict[str, int],
    ) -> tuple[Positions, int]:
        """The positions without runs that need no longer be remembered, and with those that match by now."""
        since_us = max([since_us, *(row["created_us"] for row in found)])
        kept = [(run_id, told) for run_id, told in zip(positions.runs, positions.sent, strict=True) if not over[run_id]]
        ended = [*[run_id for run_id in positions.runs if over[run_id]], *positions.past]
        past = [run_id for run_id in ended if created_us.get(run_id, 0) >= since_us - 2 * LATE_US]
        known = {*positions.runs, *positions.past}
        fresh = [row for row in found if row["run_id"] not in known]
        room = max(min(self.runs_max, self._known_max) - len(kept), 0)
        for row in reversed(fresh[:room]):
            kept.append((row["run_id"], 0))
            created_us[row["run_id"]] = row["created_us"]
        return Positions([run_id for run_id, _ in kept], [told for _, told in kept], past=past), since_us

    async def _members(self, runs: list[str], tenant: str | None) -> dict[str, Row]:
        if not runs:
            return {}
        rows = await seen_by(self._database, tenant).fetch(SQL["members"], runs)
        return {row["run_id"]: row for row in rows}

    async def _found(self, selector: Selector, tenant: str | None, *, since_us: int) -> list[Row]:
        """The latest runs that match, the latest first."""
        return await seen_by(self._database, tenant).fetch(
            SQL["found"],
            tenant or DEFAULT_TENANT,
            selector.session,
            msgspec.json.encode(selector.labels).decode(),
            max(since_us - LATE_US, 0),
            self.runs_max,
            SCAN_MAX,
        )

    # ------------------------------------------------------------------ loops

    async def _looking(self) -> None:
        while True:
            # Nothing is looked for while no stream asks.
            await wait_until_set(self._wake, within_s=LOOK_S if self._sessions else 3600.0)
            self._wake.clear()
            await self._tried(self.look)

    async def _collecting(self) -> None:
        while True:
            await asyncio.sleep(COLLECT_S)
            await self._tried(self.checkpoints.collect)

    async def _tried(self, step: Callable[[], Awaitable[int]]) -> None:
        try:
            await step()
        except DatabaseFailed as error:  # a later step does it
            _log.debug(LogEvent.DATABASE_UNAVAILABLE, doing=Duty.STREAM.value, code=error.code)
