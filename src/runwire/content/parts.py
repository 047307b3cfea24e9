"""Parts in PostgreSQL: opened, ended and read. Their bytes go through `PartWriter`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from runwire.content.artifacts import Appending, NewArtifact
from runwire.content.part import OPEN_MAX, Part, PartState, ended
from runwire.content.reading import ArtifactReader
from runwire.db import AT_ONCE, Database, Patience, Row, Statements, Transaction, load_sql, seen_by
from runwire.errors import (
    ArtifactErased,
    ContentQuotaExceeded,
    ContentUnavailable,
    PartErased,
    PartNotFound,
    PartRefused,
    RunNotFound,
)
from runwire.model.content import Artifact
from runwire.model.event import NewEvent, debug_trace
from runwire.telemetry.logs import LogEvent, get_logger

_log = get_logger()
_SQL: Final = load_sql("runwire.content", "parts.sql")
PIECE_BYTES: Final = 262_144
ROWS_PER_READ: Final = 256
"""Rows of chunks that one read takes: about 256 KiB, or more where writes were large."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the next part of a name goes."""

    n: int
    attempt: int
    tenant: str


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ends. `size` is what its writer wrote; None where nobody knows."""

    part_id: int
    n: int
    name: str
    state: PartState
    size: int | None = None
    artifact: NewArtifact | Artifact | None = None
    """The artifact of a sealed part: one to be made, or one that is the same already."""


class Parts:
    """The tables of parts, for those who write. Raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def place(self, run_id: str, name: str, *, at_most: int, tenant_bytes: int = 0) -> Place:
        """The place of the next part of that name: a new part, or the next attempt of one that was not sealed.

        Raises PartRefused (`part_open`, `too_many_parts`), and ContentQuotaExceeded where the run's tenant has
        `tenant_bytes` bytes of content; 0 is no bound.
        """
        row = await self._database.fetchrow(_SQL["place"], run_id, name, tenant_bytes)
        assert row is not None  # noqa: S101  # the statement gives one
        if row["is_open"]:
            raise PartRefused(run_id, n=row["n"], code="part_open", attempt=row["attempt"] - 1)
        if row["open"] >= OPEN_MAX or (row["attempt"] == 1 and row["parts"] >= at_most):
            raise PartRefused(run_id, n=row["n"], code="too_many_parts")
        if 0 < tenant_bytes <= row["used"]:
            raise ContentQuotaExceeded(run_id, tenant_bytes)
        return Place(row["n"], row["attempt"], row["tenant"] or "")

    async def left_open(self, run_id: str) -> list[Ending]:
        """The parts that an earlier owner of the run has left open, as abandoned."""
        rows = await self._database.fetch(_SQL["left_open"], run_id)
        return [Ending(row["part_id"], row["n"], row["name"], PartState.ABANDONED) for row in rows]


async def _erase_within(transaction: Transaction, *, run_id: str, n: int) -> bool:
    row = await transaction.fetchrow(_SQL["erase"], run_id, n)
    if row is not None:
        await transaction.execute(_SQL["forget_bytes"], [row["part_id"]])
    return row is not None


def check_not_erased(part: Part) -> None:
    """Raises PartErased or, for a part that became an artifact, ArtifactErased."""
    if not part.erased:
        return
    if part.artifact is None:
        raise PartErased(part.run_id, n=part.n)
    raise ArtifactErased(part.run_id, part.artifact)


async def open_within(
    transaction: Transaction, run_id: str, place: Place, *, name: str, media_type: str, seq: int
) -> int:
    """Opens a part in the transaction of its event `seq`, and returns the id of the attempt. Raises PartRefused."""
    if place.attempt > 1:
        await transaction.execute(_SQL["forget"], run_id, place.n)
    row = await transaction.fetchrow(_SQL["open"], run_id, place.n, place.attempt, name, media_type, seq)
    if row is None:
        raise PartRefused(run_id, n=place.n, code="part_open")
    part_id: int = row["part_id"]
    return part_id


async def end_within(transaction: Transaction, run_id: str, endings: Sequence[tuple[Ending, int, int | None]]) -> None:
    """Ends attempts in the transaction of their events, each with its seq and the number of its artifact. Raises
    PartRefused unless all could be.
    """
    rows = await transaction.fetch(
        _SQL["end"],
        [ending.part_id for ending, _, _ in endings],
        [ending.state.value for ending, _, _ in endings],
        [seq for _, seq, _ in endings],
        [ending.size for ending, _, _ in endings],
        [artifact for _, _, artifact in endings],
    )
    if len(rows) < len(endings):
        ended = {row["part_id"] for row in rows}
        missing = next(ending for ending, _, _ in endings if ending.part_id not in ended)
        raise PartRefused(run_id, n=missing.n)
    if sealed := [ending.part_id for ending, _, artifact in endings if artifact is not None]:
        await transaction.execute(_SQL["forget_bytes"], sealed)


def events_of(endings: Sequence[Ending]) -> tuple[NewEvent, ...]:
    """The events that end attempts, each followed by that of its artifact."""
    events: list[NewEvent] = []
    for ending in endings:
        events.append(debug_trace(ended(ending.name, ending.n, ending.state)))
        if isinstance(ending.artifact, NewArtifact):
            events.append(ending.artifact.event)
    return tuple(events)


async def store_endings(transaction: Transaction, appending: Appending, endings: Sequence[Ending]) -> None:
    """Ends attempts in the transaction that appends `events_of` them. Raises PartRefused and ContentLost."""
    rows: list[tuple[Ending, int, int | None]] = []
    for ending in endings:
        seq = appending.seq_of(debug_trace(ended(ending.name, ending.n, ending.state)))
        number: int | None = None
        if isinstance(ending.artifact, NewArtifact):
            await ending.artifact.store(transaction, appending)
            number = appending.number_of(ending.artifact.event)
        elif ending.artifact is not None:
            number = ending.artifact.n
        rows.append((ending, seq, number))
    await end_within(transaction, appending.run_id, rows)


@dataclass(frozen=True, slots=True)
class Read:
    """Bytes of a part from `offset` on. `closed`: the part gets no more, whatever was read."""

    part: Part
    offset: int
    data: bytes
    closed: bool

    @property
    def next_offset(self) -> int:
        return self.offset + len(self.data)

    @property
    def up_to_date(self) -> bool:
        """There was no more when it was read."""
        return self.next_offset >= self.part.size


@dataclass(frozen=True, slots=True)
class Reach:
    """How far somebody knows an attempt: `at` bytes of it."""

    part_id: int
    n: int
    attempt: int
    at: int


@dataclass(frozen=True, slots=True)
class Grown:
    """The next bytes of an attempt, which has `size` by now."""

    data: bytes
    size: int
    written_us: int


class PartReader:
    """Reads of parts. With a `tenant`, the runs of other tenants do not exist. Raises DatabaseUnavailable."""

    def __init__(
        self, database: Database, *, artifacts: ArtifactReader | None = None, tenant: str | None = None
    ) -> None:
        """`artifacts` reads the bytes of sealed parts."""
        self._whole_database = database
        self._artifacts = artifacts
        self._database: Statements = seen_by(database, tenant)

    def on_behalf_of(self, tenant: str | None) -> PartReader:
        """The same for one tenant; for None, this one."""
        return self if tenant is None else PartReader(self._whole_database, artifacts=self._artifacts, tenant=tenant)

    async def of_run(self, run_id: str) -> list[Part]:
        """The run's parts by number. Raises RunNotFound."""
        rows = await self._database.fetch(_SQL["of_run"], run_id, None)
        if not rows and await self._database.fetchrow(_SQL["run"], run_id) is None:
            raise RunNotFound(run_id)
        return [part_of(row) for row in rows]

    async def part(self, run_id: str, n: int) -> Part:
        """Raises RunNotFound and PartNotFound."""
        return (await self.read(run_id, n, offset=0, limit=0)).part

    async def read(self, run_id: str, n: int, *, offset: int, limit: int) -> Read:
        """At most `limit` bytes from `offset` on; none past the end. Raises RunNotFound and PartNotFound."""
        rows = await self._database.fetch(_SQL["read"], run_id, n, offset, ROWS_PER_READ if limit else 0, limit)
        if not rows:
            if await self._database.fetchrow(_SQL["run"], run_id) is None:
                raise RunNotFound(run_id)
            raise PartNotFound(run_id, n=n)
        part = part_of(rows[0])
        pieces = [row["bytes"] for row in rows if row["at"] is not None]
        data = b""
        if pieces:
            data = b"".join(pieces)[:limit]
        elif part.artifact is not None and not part.erased and offset < part.size and limit:
            data = await self._sealed(part, offset, limit)
        closed = part.state is not PartState.OPEN or rows[0]["run_state"] in _OVER
        return Read(part, offset, data, closed)

    async def beyond(self, reaches: Sequence[Reach], *, limit: int) -> dict[int, Grown]:
        """The bytes that attempts have beyond the reach, about `limit` at most of each, by its number in `reaches`.

        Leaves out those that have no more, and those whose bytes are not in PostgreSQL.
        """
        rows = await self._database.fetch(
            _SQL["beyond"],
            range(len(reaches)),
            [reach.part_id for reach in reaches],
            [reach.at for reach in reaches],
            limit,
        )
        return {row["i"]: Grown(row["bytes"], row["size"], row["written_us"]) for row in rows}

    async def pieces(self, run_id: str, n: int, *, patience: Patience = AT_ONCE) -> AsyncIterator[bytes]:
        """All bytes that the part has now."""
        at = 0
        while (read := await patience.through(partial(self.read, run_id, n, offset=at, limit=PIECE_BYTES))).data:
            yield read.data
            at = read.next_offset

    async def erase(self, run_id: str, n: int) -> None:
        """Erases the bytes of a part that has ended, and of the artifact that it became. Repeating it changes nothing.

        Raises RunNotFound, PartNotFound, and PartRefused (`part_open`) while its run writes it.
        """
        while not (part := await self.part(run_id, n)).erased:
            if part.artifact is not None:
                if self._artifacts is None:
                    raise ContentUnavailable("this process does not erase artifacts")
                await self._artifacts.erase(run_id, part.artifact)
            elif part.state is PartState.OPEN:
                raise PartRefused(run_id, n=n, code="part_open")
            elif await self._whole_database.in_transaction(partial(_erase_within, run_id=run_id, n=n)):
                _log.info(LogEvent.PART_ERASED, run_id=run_id, n=n)
                return

    async def _sealed(self, part: Part, offset: int, limit: int) -> bytes:
        if self._artifacts is None or part.artifact is None:
            raise ContentUnavailable("this process does not read artifacts")
        located = await self._artifacts.locate(part.run_id, part.artifact)
        stop = min(offset + limit, part.size)
        return b"".join([block async for block in self._artifacts.read(located, start=offset, stop=stop)])


_OVER: Final = ("finished", "failed", "cancelled")


def part_of(row: Row) -> Part:
    """A part from its row. An open one of a run that has ended was left by a worker that died."""
    facts: dict[str, Any] = {name: row[name] for name in _COLUMNS}
    state = PartState(row["state"])
    if state is PartState.OPEN and row["run_state"] in _OVER:
        state = PartState.ABANDONED
    return Part(**facts, state=state)


_COLUMNS: Final = (
    "run_id",
    "n",
    "part_id",
    "attempt",
    "name",
    "media_type",
    "size",
    "opened_seq",
    "ended_seq",
    "written_us",
    "artifact",
    "erased",
    "tenant",
)
