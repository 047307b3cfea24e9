"""Nodes that store content wait while the database is away, for as long as their run may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from content.plane import LARGE, Plane
from content.test_parts import Bench, bench
from orchestrate.agents_for_tests import Count
from outage import Outage, Striking
from runwire import Context
from runwire.content import ArtifactReader, Artifacts, NewArtifact
from runwire.content.parts import PartReader, Parts, Place
from runwire.db import Database
from runwire.errors import DatabaseUnavailable
from runwire.model.content import Artifact
from runwire.model.graph import Data
from runwire.orchestrate import StartRequest, Worker
from waiting import eventually


@dataclass
class Struck:
    """A bench whose database goes away just before a statement of a node's content."""

    bench: Bench
    outage: Outage
    plane: Plane
    ended: list[str] = field(default_factory=list)
    """How tries of the node ended."""

    async def claimed(self, **settings: Any) -> Worker:
        await self.bench.stages.control.start(StartRequest(agent="one", run_id="r"))
        worker = self.bench.stages.worker(desk=self.bench.desk, artifacts=self.bench.desk.artifacts, **settings)
        assert await worker.claim() == 1
        await self.away()
        return worker

    async def away(self) -> None:
        """Returns when the node has met the outage."""
        await eventually(lambda: self.outage.begun.is_set() and self._stuck, within_s=20)

    @property
    def _stuck(self) -> bool:
        return bool(self.bench.stages.database.troubles.lasting(0.3))


STATEMENTS = {
    "room": "runwire.content.room",
    "begin_upload": "runwire.content.begin_upload",
    "place": "runwire.content.place",
    "read": "runwire.content.read",
}
APPENDS = ("the append that refers", "the append that opens")
"""Statements of the log, which has sessions of its own: the database goes away just after what comes before."""
OF_ARTIFACTS = ("room", "begin_upload", "the append that refers")


class LastPlace(Parts):
    """The database goes away once it has told of a part's place."""

    def __init__(self, database: Database, strike: Callable[[], Awaitable[None]]) -> None:
        super().__init__(database)
        self._strike = strike

    async def place(self, run_id: str, name: str, *, at_most: int, tenant_bytes: int = 0) -> Place:
        place = await super().place(run_id, name, at_most=at_most, tenant_bytes=tenant_bytes)
        await self._strike()
        return place


class LastPrepared(Artifacts):
    """The database goes away once the bytes of an artifact are ready to be referred to."""

    def __init__(self, plane: Plane, strike: Callable[[], Awaitable[None]]) -> None:
        super().__init__(plane.database, plane.store, metrics=plane.metrics)
        self._strike = strike

    async def prepare(self, run_id: str, name: str, data: Data, **how: Any) -> NewArtifact | Artifact:
        prepared = await super().prepare(run_id, name, data, **how)
        await self._strike()
        return prepared


@asynccontextmanager
async def struck(admin_dsn: str, dsn: str, folder: Path, *, at: str, **node: Any) -> AsyncIterator[Struck]:
    ended: list[str] = []

    async def write(ctx: Context, _state: Count) -> None:
        try:
            if at in OF_ARTIFACTS:
                await ctx.artifact("large", LARGE)
            async with ctx.part("answer") as part:
                await part.write("the whole answer")
        except BaseException as error:
            ended.append(type(error).__name__)
            raise
        ended.append("")

    outage = Outage(admin_dsn, dsn)

    async def once() -> None:
        if not outage.begun.is_set():
            await outage.begin()

    async with bench(dsn, write, **node) as b:
        database = b.stages.database
        if at in STATEMENTS:
            database = cast("Database", Striking(database, STATEMENTS[at], outage.begin))
        plane = Plane(database, folder)
        reader = PartReader(database, artifacts=ArtifactReader(b.stages.database, plane.store, metrics=plane.metrics))
        b.desk = replace(b.desk, parts=Parts(database), reader=reader, artifacts=plane.artifacts)
        if at == "the append that opens":
            b.desk = replace(b.desk, parts=LastPlace(database, once))
        elif at == "the append that refers":
            b.desk = replace(b.desk, artifacts=LastPrepared(plane, once))
        try:
            yield Struck(b, outage, Plane(b.stages.database, folder), ended)
        finally:
            await outage.end()


@pytest.mark.parametrize("at", [*STATEMENTS, *APPENDS])
async def test_a_node_waits_until_the_database_is_back(
    postgres_dsn: str, database: str, tmp_path: Path, at: str
) -> None:
    async with struck(postgres_dsn, database, tmp_path, at=at, timeout_s=60) as s:
        worker = await s.claimed()
        assert s.ended == []
        await s.outage.end()
        await eventually(lambda: worker.active == 0, within_s=30)
        labels = await s.bench.labels()
        assert labels[-1] == "RunFinished"
        assert not [label for label in labels if label.startswith(("error", "retry"))]
        assert s.ended == [""]
        if at in OF_ARTIFACTS:
            assert await s.plane.bytes_of("r", 1) == LARGE
        await s.plane.collector().collect()
        await s.plane.check(collected=True)


@pytest.mark.parametrize("at", ["room", "place"])
async def test_a_time_out_ends_the_wait(postgres_dsn: str, database: str, tmp_path: Path, at: str) -> None:
    async with struck(postgres_dsn, database, tmp_path, at=at, timeout_s=2, retries=1) as s:
        worker = await s.claimed()
        await eventually(lambda: s.ended == ["CancelledError"], within_s=20)
        await s.outage.end()
        await eventually(lambda: worker.active == 0, within_s=30)
        labels = await s.bench.labels()
        assert [label for label in labels if label.startswith(("error", "retry"))] == [
            "error:timeout:work",
            "retry:2:work",
        ]
        assert s.ended == ["CancelledError", ""]


@pytest.mark.parametrize("at", ["begin_upload", "place"])
async def test_a_cancel_ends_the_wait(postgres_dsn: str, database: str, tmp_path: Path, at: str) -> None:
    async with struck(postgres_dsn, database, tmp_path, at=at, timeout_s=60) as s:
        worker = await s.claimed()
        worker.cancel("r")
        await eventually(lambda: s.ended == ["CancelledError"], within_s=20)
        await s.outage.end()
        await eventually(lambda: worker.active == 0, within_s=30)


@pytest.mark.parametrize("at", ["room", "place"])
async def test_a_drain_ends_the_wait_and_leaves_the_run_to_another_worker(
    postgres_dsn: str, database: str, tmp_path: Path, at: str
) -> None:
    async with struck(postgres_dsn, database, tmp_path, at=at, timeout_s=60) as s:
        worker = await s.claimed()
        await worker.drain(within_s=20)
        assert s.ended == ["DatabaseUnavailable"]
        await s.outage.end()
        await s.bench.stages.database.execute("UPDATE runs SET lease_until = now() - interval '1 second'")
        again = s.bench.stages.worker(desk=s.bench.desk, artifacts=s.bench.desk.artifacts, worker_id="w2")
        await eventually(again.claim, within_s=20)
        await eventually(lambda: again.active == 0, within_s=30)
        labels = await s.bench.labels()
        assert "orchestrator.resumed" in labels
        assert labels[-1] == "RunFinished"
        assert not [label for label in labels if label.startswith("error")]


async def test_a_request_does_not_wait(postgres_dsn: str, database: str, tmp_path: Path) -> None:
    async with struck(postgres_dsn, database, tmp_path, at="room") as s:
        await s.bench.stages.started_run("x")
        await s.outage.begin()
        artifacts: Artifacts = s.plane.artifacts
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: artifacts.prepare("x", "a", b"a"),
            lambda: s.bench.desk.place("x", "a"),
        ]
        for call in calls:
            with pytest.raises(DatabaseUnavailable):
                async with asyncio.timeout(15):
                    await call()
