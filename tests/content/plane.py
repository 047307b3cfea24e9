"""The content stage beside the other stages, its store in a folder; and what must always be true of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from counting import count
from pipeline import Stages
from runwire.content import (
    ArtifactReader,
    Artifacts,
    Collector,
    ContentLimits,
    ContentMetrics,
    ContentStore,
    NewArtifact,
    open_content_store,
)
from runwire.content.spool import INLINE_MAX
from runwire.db import Database
from runwire.model.content import Artifact
from runwire.model.event import Source
from runwire.telemetry.exposition import Exposition

LARGE = b"large " * (INLINE_MAX // 6 + 1)


class Plane:
    def __init__(
        self, database: Database, folder: Path, *, url: str = "", patience_s: float = 5.0, **limits: int
    ) -> None:
        self.database = database
        self.folder = folder
        self.metrics = ContentMetrics(Exposition())
        self.store: ContentStore = open_content_store(
            url or str(folder), failures=self.metrics.store_failures, patience_s=patience_s
        )
        self.artifacts = Artifacts(database, self.store, metrics=self.metrics, limits=ContentLimits(**limits))
        self.reader = ArtifactReader(database, self.store, metrics=self.metrics)

    def collector(self, **settings: Any) -> Collector:
        return Collector(self.database, self.store, metrics=self.metrics, **{"grace_s": 0.0, **settings})

    async def stored(self, s: Stages, run_id: str, name: str, data: bytes, *, fence: int) -> Artifact:
        """An artifact of an external run, made as its routes make it."""
        prepared = await self.artifacts.prepare(run_id, name, data)
        if isinstance(prepared, Artifact):
            return prepared
        await append(s, run_id, prepared, fence=fence)
        return prepared.made()

    async def bytes_of(self, run_id: str, n: int) -> bytes:
        located = await self.reader.locate(run_id, n)
        return b"".join([block async for block in self.reader.read(located, start=0, stop=located.artifact.size)])

    def failures(self, operation: str) -> float:
        return count(self.metrics.store_failures[operation])

    def files(self) -> set[str]:
        """Paths of the objects in the store."""
        return {
            os.path.relpath(os.path.join(folder, name), self.folder)  # noqa: PTH118
            for folder, _, names in os.walk(self.folder)
            for name in names
        }

    async def objects(self) -> set[str]:
        """Paths that blobs name."""
        rows = await self.database.fetch("SELECT object FROM content_blobs WHERE object IS NOT NULL")
        return {row["object"] for row in rows}

    async def check(self, *, collected: bool) -> None:
        """No reference dangles, and the usage is what is stored. After collection, blobs name every object."""
        files, objects = self.files(), await self.objects()
        assert objects <= files, "a reference dangles"
        dangling = await self.database.fetchval(
            "SELECT count(*) FROM artifacts AS a LEFT JOIN content_blobs AS b USING (tenant, sha256)"
            " WHERE a.erased_at IS NULL AND b.sha256 IS NULL"
        )
        assert dangling == 0
        told = await self.database.fetch(
            "SELECT e.fn FROM artifacts AS a JOIN run_events AS e ON e.run_id = a.run_id AND e.seq = a.seq"
            " WHERE e.fn <> 'artifact:' || a.name || ':' || a.n"
        )
        assert told == [], "an artifact and its event say different things"
        used, stored = await self.database.fetchrow(
            "SELECT (SELECT coalesce(sum(bytes), 0) FROM content_usage),"
            " (SELECT coalesce(sum(size), 0) FROM content_blobs)"
            " + (SELECT coalesce(sum(octet_length(c.bytes)), 0) FROM part_chunks AS c JOIN parts AS p USING (part_id)"
            "    WHERE p.state <> 'open')"
            " + (SELECT coalesce(sum(octet_length(tail)), 0) FROM parts WHERE state <> 'open')"
        ) or (None, None)
        assert used == stored
        if collected:
            assert files == objects, "an orphan is left"
            assert await self.database.fetchval("SELECT count(*) FROM content_objects") == 0


async def append(s: Stages, run_id: str, prepared: NewArtifact, *, fence: int) -> None:
    await s.log.append(run_id, [prepared.event], fence=fence, source=Source.API, companion=prepared.store)
