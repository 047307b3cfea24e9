"""The archive's records in PostgreSQL: batches, the stage of each, and the batch of each archived run."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from runwire.archive.format import FORMAT, LoggedEvent
from runwire.db import Database, Row, load_sql
from runwire.model.run import new_run_id

SQL: Final = load_sql("runwire.archive", "archive.sql")
READ_EVENTS: Final = 10_000
"""Events one statement reads: short enough that nothing waits behind it."""


class BatchState(StrEnum):
    """The stage of a batch. Only `verified` batches may be dropped; restoring makes a `dropped` one verified again."""

    WRITING = "writing"
    WRITTEN = "written"
    VERIFIED = "verified"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Batch:
    """Some runs of one day in one file. `sha256` is None while it is being written."""

    batch_id: str
    run_day: dt.date
    state: BatchState
    path: str
    runs: int
    events: int
    size: int
    sha256: bytes | None
    begun_at: dt.datetime
    keep_until: dt.datetime | None = None

    @property
    def manifest_path(self) -> str:
        return self.path.removesuffix(".jsonl.zst") + ".manifest.json"


@dataclass(frozen=True, slots=True)
class PendingRun:
    """A run that is due for the archive: it ended long enough ago."""

    run_id: str
    run_day: dt.date
    tenant: str
    agent: str
    state: str
    last_seq: int
    session: str | None = None
    labels: str = "{}"
    """A JSON object."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of an archived run, and its proof. Its terminal event is kept here, too, as event number `events`."""

    run_id: str
    batch_id: str
    path: str
    run_day: dt.date
    begins: int
    frames: tuple[int, ...]
    events: int
    chain: bytes
    terminal_ts_us: int
    terminal_source: str
    state: BatchState


@dataclass(frozen=True, slots=True)
class Held:
    """A run that keeps a day's partition: by its events, or because it may still write some. `archived` is None unless
    the events are others than those archived.
    """

    run_id: str
    events: int
    archived: int | None


class Ledger:
    """Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def unfinished(self) -> list[Batch]:
        """Batches that are not verified yet, oldest first."""
        return [_batch(row) for row in await self.database.fetch(SQL["unfinished"])]

    async def batches(self, *, batch_id: str | None = None, day: dt.date | None = None) -> list[Batch]:
        return [_batch(row) for row in await self.database.fetch(SQL["batches"], batch_id, day)]

    async def proven(self, *, within_days: int) -> dict[dt.date, dict[str, Batch]]:
        """By day and id, all proven batches of the days that had a batch proven lately."""
        days: dict[dt.date, dict[str, Batch]] = {}
        for row in await self.database.fetch(SQL["proven"], within_days):
            days.setdefault(row["run_day"], {})[row["batch_id"]] = _batch(row)
        return days

    async def pending(
        self, *, after_days: int, at_most: int, day: dt.date | None = None, skip: Sequence[str] = ()
    ) -> list[PendingRun]:
        """The runs that ended first among those that ended `after_days` ago and are in no batch."""
        args: list[object] = [after_days, list(skip), at_most]
        name = "pending"
        if day is not None:
            name = "pending_of_day"
            args.append(day)
        return [PendingRun(*row) for row in await self.database.fetch(SQL[name], *args)]

    async def begin(self, day: dt.date) -> Batch:
        """A new batch in state `writing`, with its id. Each `attempt` to write it has a path of its own."""
        batch_id = new_run_id()
        await self.database.execute(SQL["begin"], batch_id, day, _path(batch_id, day), FORMAT)
        [batch] = await self.batches(batch_id=batch_id)
        return batch

    async def attempt(self, batch: Batch) -> Batch | None:
        """The batch with a path where nobody else writes; None when it is no longer being written."""
        path = _path(batch.batch_id, batch.run_day)
        mine = await self.database.fetch(SQL["attempt"], batch.batch_id, path)
        return replace(batch, path=path) if mine else None

    async def give_up(self, batch: Batch) -> None:
        await self.database.execute(SQL["give_up"], batch.batch_id, batch.path)

    async def record(self, batch: Batch, places: Sequence[Place], *, size: int, sha256: bytes) -> bool:
        """Makes the batch `written`, with all its runs, at once; False when another attempt has begun."""
        events = sum(place.events for place in places)
        async with self.database.transaction() as transaction:
            row = await transaction.fetchrow(
                SQL["record_batch"], batch.batch_id, len(places), events, size, sha256, batch.path
            )
            if row is None:
                return False
            await transaction.execute(
                SQL["record_runs"],
                batch.batch_id,
                [place.run_id for place in places],
                [place.begins for place in places],
                [" ".join(map(str, place.frames)) for place in places],
                [place.events for place in places],
                [place.chain for place in places],
                [place.terminal_ts_us for place in places],
                [place.terminal_source for place in places],
            )
        return True

    async def write_again(self, batch: Batch) -> None:
        """Deletes the record of a batch that could not be proven."""
        async with self.database.transaction() as transaction:
            await transaction.execute(SQL["forget_runs"], batch.batch_id)
            await transaction.execute(SQL["write_again"], batch.batch_id)

    async def today(self) -> dt.date:
        """By PostgreSQL's clock, in UTC."""
        today: dt.date = await self.database.fetchval(SQL["today"])
        return today

    async def due(self, *, after_days: int, at_most: int) -> list[tuple[dt.date, int, int]]:
        """(day, runs, events) of the runs that are due now, `at_most` runs in all."""
        rows = await self.database.fetch(SQL["due"], after_days, at_most)
        return [(row["run_day"], row["runs"], row["events"]) for row in rows]

    async def verified(self, batch: Batch) -> bool:
        """Makes the batch `verified`; False when it has changed since it was read back."""
        return bool(await self.database.fetch(SQL["mark_verified"], batch.batch_id, batch.sha256))

    async def advance(self, *, after_days: int) -> None:
        """Moves the mark below which later looks skip all runs."""
        await self.database.execute(SQL["advance"], after_days)

    async def places_of(self, batch: Batch) -> list[Place]:
        """The batch's runs in the order of its file."""
        return [_place(row) for row in await self.database.fetch(SQL["places_of_batch"], batch.batch_id)]

    async def place(self, run_id: str) -> Place | None:
        """The place of a run that is proven to be in cold storage, or None."""
        row = await self.database.fetchrow(SQL["place"], run_id)
        return None if row is None else _place(row)

    async def next_places(self, *, after: str, at_most: int) -> list[Place]:
        return [_place(row) for row in await self.database.fetch(SQL["next_places"], after, at_most)]

    async def days(self) -> list[tuple[dt.date, bool]]:
        """Days with something in cold storage, and whether their batches still count as being in the log, too."""
        return [(row["run_day"], row["marked_hot"]) for row in await self.database.fetch(SQL["days_with_batches"])]

    async def held(self, day: dt.date) -> list[Held]:
        """The reasons that keep a day's table, attached or detached; none when cold storage has all its events and all
        its runs have ended.
        """
        return [Held(*row) for row in await self.database.fetch(SQL["kept"], day)]

    async def has_archived_rows(self, day: dt.date) -> bool:
        return bool(await self.database.fetchval(SQL["hot_archived"], day))

    async def dropped(self, day: dt.date) -> bool:
        """Notes that the day's archived rows are gone; False when that was known."""
        return bool(await self.database.fetch(SQL["mark_dropped"], day))

    async def put_back(self, day: dt.date, runs: Sequence[tuple[str, Sequence[LoggedEvent]]]) -> None:
        """Whole runs, in one transaction: a reader finds all of a run or none of it."""
        rows = [(run_id, *event) for run_id, events in runs for event in events]
        async with self.database.transaction() as transaction:
            for start in range(0, len(rows), READ_EVENTS):
                columns = list(zip(*rows[start : start + READ_EVENTS], strict=True))
                await transaction.execute(SQL["put_back"], day, *map(list, columns))

    async def restored(self, batch: Batch, *, keep_days: int, whole: bool) -> None:
        """Keeps the batch's rows from being dropped again for `keep_days`; `whole`: all of it is in the log again."""
        await self.database.execute(SQL["keep"], batch.batch_id, keep_days)
        if whole:
            await self.database.execute(SQL["mark_restored"], batch.batch_id)

    async def logs(
        self, day: dt.date, run_ids: Sequence[str], *, last_seqs: Sequence[int]
    ) -> AsyncIterator[list[_Part]]:
        """The logs of runs of a day as (run id, events), some runs at a time; one longer than `READ_EVENTS` comes in
        several parts, one after the other. Runs without rows do not come.
        """
        group: list[str] = []
        events = 0
        for run_id, last_seq in zip(run_ids, last_seqs, strict=True):
            if last_seq > READ_EVENTS:
                async for part in self._long(day, run_id):
                    yield [part]
                continue
            if group and events + last_seq > READ_EVENTS:
                yield await self._group(day, group)
                group, events = [], 0
            group.append(run_id)
            events += last_seq
        if group:
            yield await self._group(day, group)

    async def _group(self, day: dt.date, run_ids: Sequence[str]) -> list[_Part]:
        rows = await self.database.fetch(SQL["events"], day, run_ids, 0, 2 * READ_EVENTS)
        logs: dict[str, list[LoggedEvent]] = {}
        for run_id, *event in rows:
            logs.setdefault(run_id, []).append(LoggedEvent._make(event))
        return list(logs.items())

    async def _long(self, day: dt.date, run_id: str) -> AsyncIterator[_Part]:
        after = 0
        while rows := await self.database.fetch(SQL["events"], day, [run_id], after, READ_EVENTS):
            yield run_id, [LoggedEvent._make(event) for _, *event in rows]
            after = rows[-1]["seq"]


_Part = tuple[str, list[LoggedEvent]]


def day_folder(day: dt.date) -> str:
    """The folder of the files of a day's batches."""
    return f"events/{day:%Y/%m/%d}"


def _path(batch_id: str, day: dt.date) -> str:
    return f"{day_folder(day)}/{batch_id}.{secrets.token_hex(4)}.jsonl.zst"


def _batch(row: Row) -> Batch:
    return Batch(
        row["batch_id"],
        row["run_day"],
        BatchState(row["state"]),
        row["path"],
        row["runs"],
        row["events"],
        row["bytes"],
        row["sha256"],
        row["begun_at"],
        row["keep_until"],
    )


def _place(row: Row) -> Place:
    run_id, batch_id, path, day, begins, frames, events, chain, terminal_ts_us, terminal_source, state = row
    return Place(
        run_id,
        batch_id,
        path,
        day,
        begins,
        tuple(frames),
        events,
        chain,
        terminal_ts_us,
        terminal_source,
        BatchState(state),
    )
