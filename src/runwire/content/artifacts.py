"""Makes artifacts: bytes are stored and proven first, and referred to in the transaction of their event.

    prepare: spool -> limits -> (above 256 KiB: note the object, upload, read back, look at the note) -> NewArtifact
    append:  event `artifact:<name>:<n>` + row of the artifact + row of its bytes, in one transaction

A process that dies in between leaves an object that a row of `content_objects` names, and the collector deletes it.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, Final, Protocol

from runwire.content.metrics import ContentMetrics
from runwire.content.settings import DEFAULTS
from runwire.content.spool import Spool
from runwire.content.store import ContentStore
from runwire.db import AT_ONCE, Database, Patience, Row, Transaction, load_sql
from runwire.errors import (
    ArtifactTooLarge,
    ContentLost,
    ContentQuotaExceeded,
    ContentUnavailable,
    InvalidRequest,
    RunNotFound,
    TooManyArtifacts,
)
from runwire.model.content import OCTETS, Artifact, artifact_trace, checked_media_type, checked_name
from runwire.model.event import NewEvent
from runwire.model.graph import Data

SQL: Final = load_sql("runwire.content", "content.sql")


class Appending(Protocol):
    """The events of an append inside its transaction: they have their seqs and numbers, and are not committed yet."""

    @property
    def run_id(self) -> str: ...
    def seq_of(self, event: NewEvent) -> int: ...
    def number_of(self, event: NewEvent) -> int: ...


@dataclass(frozen=True, slots=True)
class ContentLimits:
    """Bounds on bytes of an artifact, artifacts of a run, bytes of a tenant. 0 is no bound, but for the first."""

    artifact_bytes: int = DEFAULTS.artifact_max_bytes
    artifacts_per_run: int = DEFAULTS.artifacts_per_run_max
    tenant_bytes: int = DEFAULTS.content_tenant_max_bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes that are ready to be referred to: `data` itself, or the `object` in the content store that has them."""

    size: int
    sha256: bytes
    data: bytes | None
    object: str | None


class NewArtifact:
    """An artifact that an append makes: append its `event`, with `store` as the companion."""

    def __init__(self, name: str, media_type: str, stored: Stored, *, metrics: ContentMetrics) -> None:
        self.event = artifact_trace(name)
        self._name = name
        self._media_type = media_type
        self._stored = stored
        self._metrics = metrics
        self._place = (0, 0)

    async def store(self, transaction: Transaction, appending: Appending) -> None:
        """Makes the bytes an artifact of the run, within the transaction that appends its event. Raises ContentLost.

        The transaction holds the lock of the run's row. Others who end something as an artifact, in a transaction of
        theirs, call it as well.
        """
        stored = self._stored
        n, seq = appending.number_of(self.event), appending.seq_of(self.event)
        row = await transaction.fetchrow(
            SQL["refer"],
            appending.run_id,
            n,
            seq,
            self._name,
            self._media_type,
            stored.size,
            stored.sha256,
            stored.data,
            stored.object,
        )
        if row is None:
            raise ContentLost(appending.run_id)
        self._place = (n, seq)

    def made(self) -> Artifact:
        """The artifact, after the commit."""
        n, seq = self._place
        self._metrics.artifacts.inc()
        self._metrics.bytes.inc(self._stored.size)
        return Artifact(n, self._name, self._stored.size, self._media_type, self._stored.sha256.hex(), seq)


class Artifacts:
    """Prepares artifacts. `store` is None where there is no content store: content up to 256 KiB needs none."""

    def __init__(
        self,
        database: Database,
        store: ContentStore | None,
        *,
        metrics: ContentMetrics,
        limits: ContentLimits = ContentLimits(),  # frozen
    ) -> None:
        self.limits = limits
        self._database = database
        self._store = store
        self._metrics = metrics

    async def prepare(
        self,
        run_id: str,
        name: str,
        data: Data,
        *,
        media_type: str = OCTETS,
        patience: Patience = AT_ONCE,
        of_part: int = 0,
    ) -> NewArtifact | Artifact:
        """Stores and proves the bytes. Returns what an append makes an artifact of, or the run's newest artifact of
        that name if it has the same bytes and media type: storing it twice is storing it once. `patience` waits out an
        outage of the database. `of_part`: the number of the part whose bytes these are; they count once.

        Raises InvalidRequest, ArtifactTooLarge, TooManyArtifacts, ContentQuotaExceeded, ContentUnavailable,
        RunNotFound, ContentLost when the upload took longer than the grace, and what the database raises. Errors of an
        iterator pass through.
        """
        name, media_type = checked_name(name), checked_media_type(media_type)
        try:
            async with Spool(at_most=self.limits.artifact_bytes) as spool:
                async for piece in _pieces(data):
                    await spool.write(piece)
                return await self._stored(
                    run_id, name, spool, media_type=media_type, patience=patience, of_part=of_part
                )
        except (ArtifactTooLarge, ContentQuotaExceeded, TooManyArtifacts) as error:
            self._metrics.refused[error.code].inc()
            raise

    async def _stored(
        self, run_id: str, name: str, spool: Spool, *, media_type: str, patience: Patience, of_part: int
    ) -> NewArtifact | Artifact:
        bound = self.limits.tenant_bytes
        row = await patience.through(partial(self._database.fetchrow, SQL["room"], run_id, name, bound, of_part))
        if row is None:
            raise RunNotFound(run_id)
        if (row["sha256"], row["media_type"]) == (spool.sha256, media_type):
            return Artifact(row["n"], name, row["size"], media_type, spool.sha256.hex(), row["seq"])
        self._check_room(run_id, row, spool.size)
        content = await spool.content()
        if isinstance(content, bytes):
            stored = Stored(spool.size, spool.sha256, content, None)
        else:
            stored = await self._uploaded(run_id, content, spool, patience)
        return NewArtifact(name, media_type, stored, metrics=self._metrics)

    def _check_room(self, run_id: str, row: Row, size: int) -> None:
        limits = self.limits
        if 0 < limits.artifacts_per_run <= row["artifacts"]:
            raise TooManyArtifacts(run_id, limits.artifacts_per_run)
        if 0 < limits.tenant_bytes < row["used"] + size:
            raise ContentQuotaExceeded(run_id, limits.tenant_bytes)

    async def _uploaded(self, run_id: str, file: IO[bytes], spool: Spool, patience: Patience) -> Stored:
        if self._store is None:
            raise ContentUnavailable("this process has no RUNWIRE_CONTENT_URL, which content above 256 KiB needs")
        path, tenant = await patience.through(partial(self._begun, run_id, spool.size))
        await self._store.put(path, file, size=spool.size, sha256=spool.sha256)
        if await patience.through(partial(self._database.fetchrow, SQL["uploaded"], path)) is None:
            await patience.through(partial(self._database.execute, SQL["disown"], path, tenant, spool.size))
            raise ContentLost(run_id)
        return Stored(spool.size, spool.sha256, None, path)

    async def _begun(self, run_id: str, size: int) -> tuple[str, str]:
        """A path that is noted, and the run's tenant. Each try has its own path: the note of one whose answer was lost
        is left to the collector.
        """
        path = object_path()
        row = await self._database.fetchrow(SQL["begin_upload"], path, run_id, size)
        if row is None:
            raise RunNotFound(run_id)
        return path, row["tenant"]


def object_path() -> str:
    """A path that no object has had: so deleting one object never deletes what was stored after it."""
    name = secrets.token_hex(16)
    return f"{name[:2]}/{name}"


async def forget_objects(database: Database, deleted: Sequence[Row]) -> None:
    """Takes the notes of objects away that were deleted in the store: rows of `condemned` or `drop_blob`."""
    paths, times = [row["object"] for row in deleted], [row["begun_at"] for row in deleted]
    await database.execute(SQL["forget_objects"], paths, times)


async def _pieces(data: Data) -> AsyncIterator[bytes]:
    if isinstance(data, (bytes, bytearray, memoryview, str)):
        yield _bytes_of(data)
        return
    if not hasattr(type(data), "__aiter__"):
        raise InvalidRequest("an artifact is made of bytes, text or an async iterator of them", code="invalid_content")
    async for piece in data:
        yield _bytes_of(piece)


def _bytes_of(piece: object) -> bytes:
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, (bytes, bytearray, memoryview)):
        return bytes(piece)
    raise InvalidRequest("an artifact is made of bytes, text or an async iterator of them", code="invalid_content")
