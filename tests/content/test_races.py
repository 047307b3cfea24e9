"""Racing uploads, erasures and collections leave no reference dangling and no orphan; nobody reads half of anything."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from content.plane import LARGE, Plane, append
from content.stepped import Stepped, Turns
from pipeline import Stages, stages
from runwire.content import ArtifactReader, Artifacts, Collector, ContentStore
from runwire.content.part import Part, PartState
from runwire.content.part_metrics import PartMetrics
from runwire.content.part_writer import PartWriter
from runwire.content.parts import PartReader, Parts
from runwire.db import Database, load_sql
from runwire.errors import ArtifactErased, ContentLost, PartRefused
from runwire.model.content import Artifact
from runwire.orchestrate.external_parts import ExternalParts
from runwire.orchestrate.node_parts import PartDesk
from runwire.telemetry.exposition import Exposition

SEEDS = range(5)
"""Orders that each test draws."""
ARCHIVE = load_sql("runwire.archive", "archive.sql")


@dataclass
class Race:
    """Content whose operations take turns, beside a plane that looks at it without."""

    stages: Stages
    plane: Plane
    turns: Turns

    def __post_init__(self) -> None:
        self.database = cast("Database", Stepped(self.plane.database, self.turns))
        store = cast("ContentStore", Stepped(self.plane.store, self.turns))
        self.artifacts = Artifacts(self.database, store, metrics=self.plane.metrics)
        self.reader = ArtifactReader(self.database, store, metrics=self.plane.metrics)
        self.collector = Collector(self.database, store, metrics=self.plane.metrics, grace_s=0.0)

    async def store(self, run_id: str, data: bytes, *, fence: int) -> Artifact | None:
        """The artifact; None when the collector was faster than its upload, which has no grace here."""
        try:
            prepared = await self.artifacts.prepare(run_id, "a", data)
            if isinstance(prepared, Artifact):
                return prepared
            await self.turns.turn()
            await append(self.stages, run_id, prepared, fence=fence)
            return prepared.made()
        except ContentLost:
            return None

    async def collect(self, times: int) -> None:
        for _ in range(times):
            await self.collector.collect()

    async def erase(self, run_id: str) -> None:
        await self.reader.erase(run_id, 1)

    async def quiet(self) -> None:
        """Nobody is at work: what is left over goes, and then everything is in order."""
        await self.plane.check(collected=False)
        while await self.plane.collector().collect():
            pass
        await self.plane.check(collected=True)


def done(results: list[Any]) -> list[Any]:
    """The results, which must be no errors."""
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


@pytest.mark.parametrize("data", [LARGE, b"small"], ids=["large", "small"])
async def test_uploads_race_the_collection_and_the_erasure_of_the_same_bytes(
    database: str, tmp_path: Path, data: bytes
) -> None:
    async with stages(database) as s:
        plane = Plane(s.database, tmp_path)
        for seed in SEEDS:
            runs = [f"{seed}-{n}" for n in range(3)]
            fences = [await s.started_run(run_id) for run_id in runs]
            await plane.stored(s, runs[0], "a", data, fence=fences[0])
            race = Race(s, plane, Turns(seed))
            results = await race.turns.run(
                race.store(runs[1], data, fence=fences[1]),
                race.store(runs[2], data, fence=fences[2]),
                race.erase(runs[0]),
                race.collect(3),
            )
            _, _, *others = results
            done(others)
            await race.quiet()
            for run_id, stored in zip(runs[1:], done(results[:2]), strict=True):
                if stored is not None:
                    assert await plane.bytes_of(run_id, stored.n) == data, seed
                else:
                    assert await plane.reader.list(run_id) == []
            await s.database.execute("DELETE FROM runs")
            await race.quiet()
            assert plane.files() == set()


@asynccontextmanager
async def external_parts(race: Race) -> AsyncIterator[tuple[ExternalParts, PartReader]]:
    async with PartWriter(race.database, metrics=PartMetrics(Exposition())) as writer:
        reader = PartReader(race.database, artifacts=race.reader)
        desk = PartDesk(Parts(race.database), writer, artifacts=race.artifacts, reader=reader)
        yield ExternalParts(race.stages.log, desk), reader


@pytest.mark.parametrize("data", [LARGE, b"small"], ids=["large", "small"])
async def test_sealing_races_erasing_and_collecting(database: str, tmp_path: Path, data: bytes) -> None:
    async with stages(database) as s:
        plane = Plane(s.database, tmp_path)
        for seed in SEEDS:
            run_id = f"r{seed}"
            fence = await s.started_run(run_id)
            race = Race(s, plane, Turns(seed))
            async with external_parts(race) as (external, reader):
                part = await external.append(
                    await external.open(run_id, "song", "text/plain", fence=fence), data, fence=fence, at=0
                )
                await race.turns.run(seal(external, part, fence), erase_part(reader, run_id), race.collect(3))
                await race.quiet()
                now = await reader.part(run_id, 1)
                seen = (await reader.read(run_id, 1, offset=0, limit=1 << 30)).data if not now.erased else b""
                assert seen == (b"" if now.erased else data), seed
                assert now.state is not PartState.OPEN or now.artifact is None
                kept = await s.database.fetchval(
                    "SELECT octet_length(tail) + (SELECT count(*) FROM part_chunks AS c WHERE c.part_id = p.part_id)"
                    " FROM parts AS p WHERE run_id = $1",
                    run_id,
                )
                assert (kept > 0) == (now.artifact is None and not now.erased), seed
            await s.database.execute("DELETE FROM runs")
            await race.quiet()
            assert await s.database.fetchval("SELECT count(*) FROM part_chunks") == 0
            assert plane.files() == set()


async def seal(external: ExternalParts, part: Part, fence: int) -> None:
    with contextlib.suppress(ContentLost):  # its upload was collected: the part is open, as it was
        await external.seal(part, fence=fence)


async def erase_part(reader: PartReader, run_id: str) -> None:
    for _ in range(3):
        with contextlib.suppress(PartRefused):  # it is open
            await reader.erase(run_id, 1)


async def test_restoring_races_moving_erasing_and_collecting(database: str, tmp_path: Path) -> None:
    async with stages(database) as s:
        plane = Plane(s.database, tmp_path)
        for seed in SEEDS:
            runs = [f"{seed}-{n}" for n in range(3)]
            for run_id in runs:
                fence = await s.started_run(run_id)
                await plane.stored(s, run_id, "own", run_id.encode(), fence=fence)
                await plane.stored(s, run_id, "shared", b"shared", fence=fence)
            await archived(s.database, runs)
            race = Race(s, plane, Turns(seed))
            done(
                await race.turns.run(
                    restore(race, runs[0], seed), race.collect(3), race.collect(2), race.erase(runs[1])
                )
            )
            await race.quiet()
            for run_id in runs:
                if run_id != runs[1]:
                    assert await plane.bytes_of(run_id, 1) == run_id.encode(), seed
                assert await plane.bytes_of(run_id, 2) == b"shared", seed
            with pytest.raises(ArtifactErased):
                await plane.reader.locate(runs[1], 1)
            # The batch that was restored is in cold storage again: its content follows.
            assert await s.database.fetchval("SELECT count(*) FROM content_blobs WHERE data IS NOT NULL") == 0, seed
            await s.database.execute("DELETE FROM runs")
            await s.database.execute("DELETE FROM archive_batches")
            await race.quiet()
            assert plane.files() == set()


async def archived(database: Database, runs: list[str]) -> None:
    """Each run in a batch of its own, dropped from the log."""
    for run_id in runs:
        await database.execute(
            "INSERT INTO archive_batches (batch_id, run_day, state, path, format, sha256, verified_at, dropped_at)"
            " SELECT $1, run_day, 'dropped', 'p', 'f', '', now(), now() FROM runs WHERE run_id = $1",
            run_id,
        )
        await database.execute("INSERT INTO archived_runs VALUES ($1, $1, 0, '{1}', 3, sha256('x'), 1, 'api')", run_id)


async def restore(race: Race, batch_id: str, seed: int) -> None:
    """The batch comes back into the log and leaves it again, a few times."""
    for _ in range(1 + random.Random(seed).randrange(3)):
        await race.database.execute(ARCHIVE["mark_restored"], batch_id)
        await race.database.execute(
            ARCHIVE["mark_dropped"], await race.plane.database.fetchval("SELECT run_day FROM archive_batches LIMIT 1")
        )
