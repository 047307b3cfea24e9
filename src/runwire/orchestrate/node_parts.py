"""Parts that the nodes of one run write, from their opening to the end of the node.

open() --the block ends--> complete --NodeFinished--> sealed
   |                          |
   |--the block raises--> broken --NodeFinished--> abandoned
   |
   +--the try fails, or another worker resumes the run--> abandoned; the next try opens a new attempt
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from runwire.append import Companion, Stored
from runwire.clock import monotonic
from runwire.content.artifacts import Artifacts, NewArtifact
from runwire.content.part import PartState, checked_media_type, checked_name, opened
from runwire.content.part_writer import OpenPart, PartWriter
from runwire.content.parts import Ending, PartReader, Parts, Place, events_of, open_within, store_endings
from runwire.content.settings import DEFAULTS
from runwire.db import AT_ONCE, Patience, Transaction
from runwire.errors import ContentUnavailable, DatabaseUnavailable, NodeFailed, PartRefused, StorageUnavailable
from runwire.model.content import Artifact
from runwire.model.event import NewEvent, debug_trace
from runwire.orchestrate.run_log import RunLog

BURST_S: Final = 1.0
"""Seconds of the rate that may be written at once."""


@dataclass(frozen=True, slots=True)
class PartLimits:
    """`rate` is in bytes per second and part; a faster node waits. `tenant`: bytes of all content of a tenant, from
    which on no part is opened, and the writer stores nothing more; 0 is no bound.
    """

    per_run: int = DEFAULTS.parts_per_run_max
    bytes: int = DEFAULTS.part_bytes_max
    rate: int = DEFAULTS.part_bytes_per_s
    tenant: int = DEFAULTS.content_tenant_max_bytes


@dataclass(frozen=True, slots=True)
class PartDesk:
    """Everything that a worker needs to let its nodes write parts."""

    parts: Parts
    writer: PartWriter
    limits: PartLimits = PartLimits()
    artifacts: Artifacts | None = None
    """Makes artifacts of sealed parts. Without it, or where the store is away, their bytes stay where they are."""
    reader: PartReader | None = None

    async def place(self, run_id: str, name: str) -> Place:
        """The place of the next part of that name. Raises as `Parts.place`."""
        limits = self.limits
        return await self.parts.place(run_id, name, at_most=limits.per_run, tenant_bytes=limits.tenant)

    async def sealed(
        self, run_id: str, n: int, name: str, media_type: str, *, patience: Patience = AT_ONCE
    ) -> NewArtifact | Artifact | None:
        """The artifact that the part becomes when it is sealed. All its bytes are stored."""
        if self.artifacts is None or self.reader is None:
            return None
        pieces = self.reader.pieces(run_id, n, patience=patience)
        try:
            return await self.artifacts.prepare(
                run_id, name, pieces, media_type=media_type, patience=patience, of_part=n
            )
        except ContentUnavailable:
            return None


@dataclass(frozen=True, slots=True)
class Sealing:
    """The end of a node's parts, to be stored with its NodeFinished: events that come before it, and rows."""

    events: tuple[NewEvent, ...] = ()
    companion: Companion | None = None
    told: Callable[[], None] = lambda: None

    def beside(self, artifact: NewArtifact | None) -> Sealing:
        """The same with an artifact that the append makes, too."""
        if artifact is None:
            return self
        companion = self.companion

        async def store(transaction: Transaction, stored: Stored) -> None:
            if companion is not None:
                await companion(transaction, stored)
            await artifact.store(transaction, stored)

        return Sealing((*self.events, artifact.event), store, self.told)


_NO_PARTS: Final = Sealing()


class NodeParts:
    """The parts of one run. A try of a node opens them; `sealing` or `abandon` ends those of the try."""

    def __init__(self, log: RunLog, *, fence: int, desk: PartDesk | None) -> None:
        self._log = log
        self._fence = fence
        self._desk = desk
        self._open: list[NodePart] = []
        self._opening: set[asyncio.Task[NodePart]] = set()
        self._one_at_a_time = asyncio.Lock()
        """Of openings, each from the look for its place to its commit."""
        self._tries = 0
        """Tries whose parts were ended."""

    async def open(self, name: str, media_type: str) -> NodePart:
        """A new part, or the next attempt of one. Raises InvalidRequest, and PartRefused or ContentQuotaExceeded at
        a limit. Waits while the database is away.

        Once its place is known, the opening goes on when the node is cancelled meanwhile, so that the part is known,
        and ends with its try.
        """
        desk = self._desk
        if desk is None:
            raise NodeFailed("parts_unavailable", "this worker has no store for parts", retry=False)
        name, media_type = checked_name(name), checked_media_type(media_type)
        tries = self._tries
        await self._one_at_a_time.acquire()
        try:
            place = await self._log.patience.through(partial(desk.place, self._log.run_id, name))
        except BaseException:
            self._one_at_a_time.release()
            raise
        opening = self._opened(desk, place, name, media_type, tries=tries)
        task = asyncio.create_task(opening, name=f"open a part of {self._log.run_id}")
        self._opening.add(task)
        task.add_done_callback(self._settle)
        return await asyncio.shield(task)

    async def settled(self) -> None:
        """Returns when no part is being opened any more. Call it after each try, before its parts are ended."""
        while self._opening:
            await asyncio.wait(self._opening)

    async def _opened(self, desk: PartDesk, place: Place, name: str, media_type: str, *, tries: int) -> NodePart:
        run_id = self._log.run_id
        if tries != self._tries:  # its try is over: nobody would end the part
            raise PartRefused(run_id, n=place.n)
        event = debug_trace(opened(name, place.n))
        part_ids: list[int] = []

        async def store(transaction: Transaction, stored: Stored) -> None:
            seq = stored.seq_of(event)
            part_id = await open_within(transaction, run_id, place, name=name, media_type=media_type, seq=seq)
            part_ids.append(part_id)

        await self._log.append_from_node(event, companion=store)
        bytes_ = desk.writer.open(
            run_id,
            place.n,
            name=name,
            attempt=place.attempt,
            part_id=part_ids[-1],
            fence=self._fence,
            tenant=place.tenant,
        )
        part = NodePart(bytes_, desk, media_type, patience=self._log.patience)
        self._open.append(part)
        return part

    def sealing(self) -> Sealing:
        """Ends the parts of a try that succeeded. Store it with the node's NodeFinished."""
        return self._end([part.ending() for part in self._taken()]) if self._open else _NO_PARTS

    async def abandon(self) -> None:
        """Ends the parts of a try that failed, in an append of its own."""
        await self._append(self._end([part.ending(failed=True) for part in self._taken()]))

    async def abandon_left(self) -> None:
        """Ends the parts that the run's last owner has left open, in an append of its own."""
        if self._desk is None:
            return
        try:
            left = await self._log.patience.through(partial(self._desk.parts.left_open, self._log.run_id))
        except DatabaseUnavailable as error:
            raise StorageUnavailable(self._log.run_id, str(error)) from error
        await self._append(self._end(left))

    def drop(self) -> None:
        """Lets go of parts without a word: another worker has the run."""
        for task in self._opening:
            task.cancel()
        self._taken()

    def _settle(self, task: asyncio.Task[NodePart]) -> None:
        self._one_at_a_time.release()
        self._opening.discard(task)
        if not task.cancelled():
            task.exception()  # a node that was cancelled does not ask

    def _taken(self) -> list[NodePart]:
        self._tries += 1
        taken, self._open = self._open, []
        for part in taken:
            part.bytes.close()
        return taken

    def _end(self, endings: list[Ending]) -> Sealing:
        if not endings or self._desk is None:
            return _NO_PARTS
        run_id, writer = self._log.run_id, self._desk.writer
        events = events_of(endings)

        async def store(transaction: Transaction, stored: Stored) -> None:
            await store_endings(transaction, stored, endings)

        def told() -> None:
            for ending in endings:
                if isinstance(ending.artifact, NewArtifact):
                    ending.artifact.made()
            writer.ended(run_id, [ending.state for ending in endings])

        return Sealing(events, store, told)

    async def _append(self, sealing: Sealing) -> None:
        if sealing.companion is not None:
            await self._log.append(*sealing.events, companion=sealing.companion)
            sealing.told()


class NodePart:
    """One attempt of a part, as a node writes it: `Context.part` gives it."""

    def __init__(self, part: OpenPart, desk: PartDesk, media_type: str, *, patience: Patience) -> None:
        self.bytes = part
        self._patience = patience
        self._desk = desk
        self._limits = desk.limits
        self._media_type = media_type
        self._artifact: NewArtifact | Artifact | None = None
        self._complete = False
        self._paid_until = monotonic() - BURST_S

    @property
    def n(self) -> int:
        return self.bytes.n

    @property
    def attempt(self) -> int:
        return self.bytes.attempt

    @property
    def size(self) -> int:
        return self.bytes.size

    async def write(self, chunk: str | bytes) -> None:
        data = _encoded(chunk)
        if self.bytes.size + len(data) > self._limits.bytes:
            raise NodeFailed("part_too_large", retry=False)
        now = monotonic()
        self._paid_until = max(self._paid_until, now - BURST_S) + len(data) / self._limits.rate
        if self._paid_until > now:
            await asyncio.sleep(self._paid_until - now)
        await self.bytes.write(data)

    async def complete(self) -> None:
        """The part has all its bytes: they are stored, and the part is sealed with the end of its node."""
        part = self.bytes
        await part.flush()
        self._artifact = await self._desk.sealed(
            part.run_id, part.n, part.name, self._media_type, patience=self._patience
        )
        self._complete = True

    def ending(self, *, failed: bool = False) -> Ending:
        """How it ends now."""
        sealed = self._complete and not failed
        part = self.bytes
        return Ending(
            part.part_id,
            part.n,
            part.name,
            PartState.SEALED if sealed else PartState.ABANDONED,
            size=part.stored if sealed else None,
            artifact=self._artifact if sealed else None,
        )


def _encoded(chunk: object) -> bytes:
    if isinstance(chunk, str):
        try:
            return chunk.encode()
        except UnicodeEncodeError:
            raise NodeFailed("part_not_text", "a lone surrogate is no character", retry=False) from None
    if isinstance(chunk, bytes | bytearray | memoryview):
        return bytes(chunk)
    raise TypeError("a part takes str or bytes")
