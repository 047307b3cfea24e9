"""Parts of external runs: the holder of the run's fence opens, writes and seals them over HTTP."""

from __future__ import annotations

from dataclasses import replace

from runwire.append import EventLog, Stored
from runwire.clock import monotonic
from runwire.content.artifacts import NewArtifact
from runwire.content.part import Part, PartState, checked_media_type, checked_name, opened
from runwire.content.parts import Ending, events_of, open_within, store_endings
from runwire.db import Transaction
from runwire.errors import PartRefused
from runwire.model.event import Source, debug_trace
from runwire.orchestrate.node_parts import BURST_S, PartDesk

_PACES_KEPT = 4096


class ExternalParts:
    """Writes of external orchestrators, each durable before it returns.

    Raises what `EventLog.append` raises, FenceStale and NotExternal among it, and PartRefused.
    """

    def __init__(self, log: EventLog, desk: PartDesk) -> None:
        self._log = log
        self._desk = desk
        self._paid_until: dict[int, float] = {}

    async def open(self, run_id: str, name: str, media_type: str, *, fence: int) -> Part:
        """A new part, or the next attempt of one that was abandoned. Raises InvalidRequest."""
        name, media_type = checked_name(name), checked_media_type(media_type)
        await self._log.append(run_id, [], fence=fence, source=Source.API)  # its run and fence are right
        place = await self._desk.place(run_id, name)
        event = debug_trace(opened(name, place.n))
        found: list[tuple[int, int]] = []

        async def store(transaction: Transaction, stored: Stored) -> None:
            seq = stored.seq_of(event)
            part_id = await open_within(transaction, run_id, place, name=name, media_type=media_type, seq=seq)
            found.append((part_id, seq))

        await self._log.append(run_id, [event], fence=fence, source=Source.API, companion=store)
        part_id, seq = found[-1]
        return Part(
            run_id=run_id,
            n=place.n,
            part_id=part_id,
            attempt=place.attempt,
            name=name,
            media_type=media_type,
            state=PartState.OPEN,
            size=0,
            opened_seq=seq,
            ended_seq=None,
            written_us=None,
            tenant=place.tenant,
        )

    async def append(self, part: Part, data: bytes, *, fence: int, at: int | None) -> Part:
        """The part with the bytes at its end. With `at`, the end must be there. Raises PartMoved."""
        limits = self._desk.limits
        if (part.size if at is None else at) + len(data) > limits.bytes:
            raise PartRefused(part.run_id, n=part.n, code="part_too_large")
        self._pay(part, len(data))
        size = await self._desk.writer.write_once(part, data, fence=fence, at=at)
        return replace(part, size=size)

    async def seal(self, part: Part, *, fence: int) -> Part:
        """The part, sealed: no byte follows."""
        artifact = await self._desk.sealed(part.run_id, part.n, part.name, part.media_type)
        endings = [Ending(part.part_id, part.n, part.name, PartState.SEALED, size=part.size, artifact=artifact)]

        async def store(transaction: Transaction, stored: Stored) -> None:
            await store_endings(transaction, stored, endings)

        await self._log.append(part.run_id, events_of(endings), fence=fence, source=Source.API, companion=store)
        if isinstance(artifact, NewArtifact):
            artifact.made()
        self._paid_until.pop(part.part_id, None)
        self._desk.writer.ended(part.run_id, [PartState.SEALED])
        return replace(part, state=PartState.SEALED)

    async def abandon(self, part: Part, *, fence: int) -> None:
        """Ends an open part without sealing it: the next one of its name begins a new attempt. Repeating it changes
        nothing.
        """
        if part.state is PartState.SEALED:
            raise PartRefused(part.run_id, n=part.n)
        endings = [Ending(part.part_id, part.n, part.name, PartState.ABANDONED)]
        if part.state is PartState.ABANDONED:
            endings = []

        async def store(transaction: Transaction, stored: Stored) -> None:
            await store_endings(transaction, stored, endings)

        await self._log.append(
            part.run_id, events_of(endings), fence=fence, source=Source.API, companion=store if endings else None
        )
        self._paid_until.pop(part.part_id, None)
        self._desk.writer.ended(part.run_id, [ending.state for ending in endings])

    def _pay(self, part: Part, count: int) -> None:
        """Raises PartRefused (`part_rate_exceeded`)."""
        now = monotonic()
        paid_until = max(self._paid_until.get(part.part_id, 0.0), now - BURST_S) + count / self._desk.limits.rate
        if paid_until > now and count < self._desk.limits.rate * BURST_S:
            raise PartRefused(part.run_id, n=part.n, code="part_rate_exceeded")
        if len(self._paid_until) >= _PACES_KEPT:
            del self._paid_until[next(iter(self._paid_until))]
        self._paid_until[part.part_id] = paid_until
