"""Reads artifacts: lists them, finds their bytes, erases them. On behalf of one tenant, or of all."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from runwire.content.artifacts import SQL, forget_objects
from runwire.content.metrics import ContentMetrics, StoreFailure
from runwire.content.store import ContentStore
from runwire.db import Database, Row, seen_by
from runwire.errors import (
    ArtifactErased,
    ArtifactNotFound,
    ConstraintViolated,
    ContentUnavailable,
    RunNotFound,
)
from runwire.model.content import RESULT, Artifact
from runwire.telemetry.logs import LogEvent, get_logger

_log = get_logger()


@dataclass(frozen=True, slots=True)
class Located:
    """An artifact whose bytes are there, and where: `data` itself, or the `object` in the content store."""

    artifact: Artifact
    data: bytes | None
    object: str | None


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of a run, who may append to it: the holder of its fence, from outside or one of our workers."""

    external: bool
    state: str
    fence: int
    last_seq: int


class ArtifactReader:
    """`store` is None where there is no content store."""

    def __init__(self, database: Database, store: ContentStore | None, *, metrics: ContentMetrics) -> None:
        self._database = database
        self._store = store
        self._metrics = metrics
        self._seen = seen_by(database, None)

    def on_behalf_of(self, tenant: str | None) -> ArtifactReader:
        """The same of one tenant, to which the runs of others do not exist; None sees all."""
        reader = ArtifactReader(self._database, self._store, metrics=self._metrics)
        reader._seen = seen_by(self._database, tenant)  # its own class
        return reader

    async def owner(self, run_id: str) -> Owner:
        """The run's owner, as an external orchestrator has to be. Raises RunNotFound."""
        row = await self._seen.fetchrow(SQL["owner"], run_id)
        if row is None:
            raise RunNotFound(run_id)
        return Owner(*row)

    async def list(self, run_id: str, *, name: str | None = None) -> list[Artifact]:
        """The run's artifacts in order, erased ones among them. Raises RunNotFound."""
        rows = await self._seen.fetch(SQL["list"], run_id, name)
        if not rows and name is not None:
            rows = await self._seen.fetch(SQL["list"], run_id, None)
            if rows:
                return []
        if not rows:
            raise RunNotFound(run_id)
        return [_artifact(row) for row in rows if row["n"] is not None]

    async def locate(self, run_id: str, n: int) -> Located:
        """Raises RunNotFound, ArtifactNotFound, ArtifactErased."""
        return _located(run_id, await self._seen.fetchrow(SQL["locate"], run_id, n))

    async def result(self, run_id: str) -> Located:
        """The run's result: the newest artifact of that name. Raises as `locate`."""
        return _located(run_id, await self._seen.fetchrow(SQL["locate_newest"], run_id, RESULT))

    async def read(self, located: Located, *, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes from `start` up to `stop`. All of them are proven by their hash before the last block comes; when
        they are others than were stored, or go meanwhile, it raises ContentUnavailable.
        """
        if located.data is not None:
            yield located.data[start:stop]
            return
        if self._store is None or located.object is None:
            raise ContentUnavailable("this process has no RUNWIRE_CONTENT_URL, where these bytes are")
        whole = start == 0 and stop == located.artifact.size
        sha256 = hashlib.sha256()
        done = start
        async for block in self._store.read(located.object, start=start, stop=stop):
            done += len(block)
            if whole:
                sha256.update(block)
                if done == stop and sha256.hexdigest() != located.artifact.sha256:
                    self._metrics.store_failures[StoreFailure.VERIFY].inc()
                    _log.error(LogEvent.CONTENT_STORE_FAILED, operation=StoreFailure.VERIFY.value, why="other bytes")
                    raise ContentUnavailable("the content store has other bytes than were stored")
            yield block

    async def erase(self, run_id: str, n: int) -> None:
        """Leaves a tombstone, and deletes the bytes unless another artifact of the tenant has the same. Repeating it
        changes nothing. Raises RunNotFound, ArtifactNotFound.
        """
        row = await self._seen.fetchrow(SQL["erase"], run_id, n)
        if row is None:
            try:
                await self.locate(run_id, n)
            except ArtifactErased:
                return
            raise ArtifactNotFound(run_id, n)
        self._metrics.erased.inc()
        _log.info(LogEvent.ARTIFACT_ERASED, run_id=run_id, n=n)
        await self._drop(row["tenant"], row["sha256"])

    async def _drop(self, tenant: str, sha256: bytes) -> None:
        """Deletes bytes at once. The collector deletes later what the store does not delete now."""
        try:
            rows = await self._database.fetch(SQL["drop_blob"], tenant, sha256)
        except ConstraintViolated:  # another artifact has just been made of the same bytes
            return
        if self._store is None or not rows:
            return
        try:
            for row in rows:
                await self._store.delete(row["object"])
        except ContentUnavailable:
            return
        await forget_objects(self._database, rows)


def _located(run_id: str, row: Row | None) -> Located:
    if row is None:
        raise RunNotFound(run_id)
    if row["n"] is None:
        raise ArtifactNotFound(run_id, None)
    artifact = _artifact(row)
    if artifact.erased_at is not None:
        raise ArtifactErased(run_id, artifact.n)
    return Located(artifact, row["data"], row["object"])


def _artifact(row: Row) -> Artifact:
    sha256 = row["sha256"]
    return Artifact(
        row["n"],
        row["name"],
        row["size"],
        row["media_type"],
        None if sha256 is None else sha256.hex(),
        row["seq"],
        row["created_at"],
        row["erased_at"],
    )
