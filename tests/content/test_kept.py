"""Bytes of parts that became no artifact: they are counted, end with their time, and are erased."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from content.erasure import files_with, tables_with
from content.plane import LARGE, Plane
from content.test_parts import Bench, bench
from counting import count
from orchestrate.agents_for_tests import Count
from runwire import Context, NodeFailed
from runwire.append import Change, Stored
from runwire.content.part import Part, PartState
from runwire.content.part_metrics import PartMetrics
from runwire.content.part_quota import PartQuota
from runwire.content.part_writer import PartWriter
from runwire.content.parts import Ending, PartReader, check_not_erased, events_of, store_endings
from runwire.db import Transaction
from runwire.errors import ContentQuotaExceeded, PartErased, PartMoved, PartRefused
from runwire.model.event import RUN_FINISHED, Source
from runwire.model.run import RunState
from runwire.orchestrate.external_parts import ExternalParts
from runwire.orchestrate.node_parts import PartLimits
from runwire.telemetry.exposition import Exposition

CANARY = "canary-Zeisig-4711 "
SONG = (CANARY * 100).encode()


@dataclass
class Kept:
    """A bench whose worker and external runs have no content store, beside a plane that collects."""

    bench: Bench
    plane: Plane
    external: ExternalParts

    @property
    def reader(self) -> PartReader:
        return PartReader(self.plane.database, artifacts=self.plane.reader)

    async def used(self) -> int:
        used: int = await self.plane.database.fetchval("SELECT coalesce(sum(bytes), 0)::bigint FROM content_usage")
        await self.plane.check(collected=False)
        return used

    async def ended_long_ago(self, days: int) -> None:
        for sql in (
            "UPDATE runs SET finished_at = finished_at - $1::int * interval '1 day'",
            "UPDATE parts SET opened_at = opened_at - $1::int * interval '1 day'",
            "UPDATE artifacts SET created_at = created_at - $1::int * interval '1 day'",
        ):
            await self.plane.database.execute(sql, days)

    async def failed_run(self) -> None:
        """A run `r` whose node fails amid its part."""
        assert (await self.bench.walk())[-2:] == ["error:unlucky:work", "RunFinished"]

    async def left_run(self, run_id: str = "left") -> int:
        """An external run that ends while its part is open, as one whose lease is lost. Its fence."""
        fence = await self.bench.stages.started_run(run_id)
        part = await self.external.open(run_id, "song", "text/plain", fence=fence)
        await self.external.append(part, SONG, fence=fence, at=0)
        return fence

    async def end(self, run_id: str, fence: int) -> None:
        await self.bench.stages.log.append(
            run_id,
            [RUN_FINISHED],
            fence=fence,
            source=Source.API,
            change=Change(RunState.FAILED, error_code="lease_lost"),
        )

    async def sealed_run(self, run_id: str = "sealed") -> int:
        """An external run that seals its part while there is no content store. Its fence."""
        fence = await self.bench.stages.started_run(run_id)
        part = await self.external.open(run_id, "song", "text/plain", fence=fence)
        part = await self.external.append(part, SONG, fence=fence, at=0)
        await self.external.seal(part, fence=fence)
        return fence


@asynccontextmanager
async def kept(dsn: str, folder: Path, *, limits: PartLimits | None = None) -> AsyncIterator[Kept]:
    async def write(ctx: Context, _state: Count) -> None:
        async with ctx.part("song") as part:
            await part.write(SONG)
            await part.complete()  # type: ignore[attr-defined]
            raise NodeFailed("unlucky")

    async with bench(dsn, write, limits=limits) as b:
        yield Kept(b, Plane(b.stages.database, folder), ExternalParts(b.stages.log, b.desk))


async def test_after_its_time_and_a_collection_nothing_of_a_run_remains(database: str, tmp_path: Path) -> None:
    async with kept(database, tmp_path) as k:
        await k.failed_run()
        await k.end("left", await k.left_run())
        fence = await k.sealed_run()
        await k.plane.stored(k.bench.stages, "sealed", "large", SONG * 200, fence=fence)
        await k.plane.stored(k.bench.stages, "sealed", "small", SONG, fence=fence)
        await k.end("sealed", fence)
        assert files_with(tmp_path, CANARY)
        collector = k.plane.collector(keep_days=7)
        await k.ended_long_ago(6)
        await collector.collect()
        assert await tables_with(k.plane.database, CANARY) == {"parts", "part_chunks", "content_blobs"}
        assert [part.erased for run_id in ("r", "left", "sealed") for part in await k.reader.of_run(run_id)] == [
            False
        ] * 3
        await k.ended_long_ago(2)
        while await collector.collect():
            pass
        assert await tables_with(k.plane.database, CANARY) == set()
        assert files_with(tmp_path, CANARY) == set()
        assert await k.used() == 0
        await k.plane.check(collected=True)
        for run_id in ("r", "left", "sealed"):
            (part,) = await k.reader.of_run(run_id)
            assert (part.erased, part.size) == (True, len(SONG))
            with pytest.raises(PartErased):
                check_not_erased(part)
            assert (await k.reader.read(run_id, 1, offset=0, limit=10)).data == b""
        assert count(k.plane.metrics.collected["part"]) == 3


async def test_a_run_that_goes_on_keeps_its_parts_whatever_their_age(database: str, tmp_path: Path) -> None:
    async with kept(database, tmp_path) as k:
        await k.left_run("open")
        await k.sealed_run("sealed")
        await k.ended_long_ago(30)
        await k.plane.collector(keep_days=1).collect()
        for run_id, state in (("open", PartState.OPEN), ("sealed", PartState.SEALED)):
            (part,) = await k.reader.of_run(run_id)
            assert (part.state, part.erased) == (state, False)
            assert (await k.reader.read(run_id, 1, offset=0, limit=1 << 20)).data == SONG


async def test_the_usage_of_a_tenant_is_what_is_stored(database: str, tmp_path: Path) -> None:
    async with kept(database, tmp_path) as k:
        await k.failed_run()
        assert await k.used() == len(SONG)
        left = await k.left_run()
        assert await k.used() == len(SONG)  # a part that is written counts when it ends
        await k.end("left", left)
        await k.plane.collector().collect()  # which ends what the run has left open
        assert await k.used() == 2 * len(SONG)
        (part,) = await k.reader.of_run("left")
        assert (part.state, part.ended_seq) == (PartState.ABANDONED, 3)
        await k.sealed_run()
        assert await k.used() == 3 * len(SONG)
        await k.plane.database.execute("DELETE FROM runs WHERE run_id = 'sealed'")
        assert await k.used() == 2 * len(SONG)
        await k.reader.erase("r", 1)
        await k.reader.erase("left", 1)
        assert await k.used() == 0
        assert await tables_with(k.plane.database, CANARY) == set()


async def test_an_attempt_that_is_begun_again_gives_its_bytes_back(database: str, tmp_path: Path) -> None:
    async with kept(database, tmp_path) as k:
        fence = await k.bench.stages.started_run("x")
        used: list[int] = []
        for attempt in (1, 2, 3):
            part = await k.external.open("x", "song", "text/plain", fence=fence)
            used.append(await k.used())
            part = await k.external.append(part, b"x" * attempt, fence=fence, at=0)
            await abandoned(k, part.part_id, fence)
            used.append(await k.used())
            if attempt == 2:
                await k.reader.erase("x", 1)
                used.append(await k.used())
        assert used == [0, 1, 0, 2, 0, 0, 3]
        assert (await k.reader.read("x", 1, offset=0, limit=10)).data == b"xxx"  # the third attempt was not erased


async def abandoned(k: Kept, part_id: int, fence: int) -> None:
    endings = [Ending(part_id, 1, "song", PartState.ABANDONED)]

    async def store(transaction: Transaction, stored: Stored) -> None:
        await store_endings(transaction, stored, endings)

    await k.bench.stages.log.append("x", events_of(endings), fence=fence, source=Source.API, companion=store)


async def test_a_part_that_is_written_is_not_erased_and_any_other_is_once(database: str, tmp_path: Path) -> None:
    async with kept(database, tmp_path) as k:
        fence = await k.left_run()
        with pytest.raises(PartRefused) as refused:
            await k.reader.erase("left", 1)
        assert refused.value.code == "part_open"
        await k.end("left", fence)
        await asyncio.gather(*(k.reader.erase("left", 1) for _ in range(5)))
        await k.reader.erase("left", 1)
        assert await tables_with(k.plane.database, CANARY) == set()
        assert await k.used() == 0


async def test_a_tenant_at_its_limit_opens_no_part(database: str, tmp_path: Path) -> None:
    async with kept(database, tmp_path, limits=PartLimits(tenant=2 * len(SONG))) as k:
        await k.sealed_run("one")
        fence = await k.left_run("two")  # open parts count when another one is opened
        with pytest.raises(ContentQuotaExceeded):
            await k.external.open("two", "more", "text/plain", fence=fence)
        with pytest.raises(ContentQuotaExceeded):
            await k.left_run("three")
        await k.reader.erase("one", 1)
        await k.external.open("two", "more", "text/plain", fence=fence)


async def test_a_part_grows_no_further_than_its_tenant_may(database: str, tmp_path: Path) -> None:
    async with kept(database, tmp_path, limits=PartLimits(tenant=2 * len(SONG))) as k:
        one = await k.left_run("one")
        fence = await k.bench.stages.started_run("two")
        opened = await k.external.open("two", "song", "text/plain", fence=fence)
        part = await k.external.append(opened, SONG, fence=fence, at=0)
        for at in (None, part.size):
            with pytest.raises(ContentQuotaExceeded):
                await k.external.append(part, b"x", fence=fence, at=at)
        with pytest.raises(PartMoved):  # a repeat is no growth
            await k.external.append(part, SONG, fence=fence, at=0)
        assert (await k.reader.part("two", 1)).size == len(SONG)
        await k.end("one", one)
        await k.reader.erase("one", 1)
        part = await k.external.append(part, b"x", fence=fence, at=part.size)
        assert part.size == len(SONG) + 1
        assert (await k.bench.walk())[-3:] == [
            "part:song:1:abandoned",
            "error:content_quota_exceeded:work",
            "RunFinished",
        ]
        assert (await k.reader.part("r", 1)).size == 0


async def test_an_artifact_leaves_the_room_of_open_parts(database: str, tmp_path: Path) -> None:
    limit = 2 * len(SONG)
    async with kept(database, tmp_path, limits=PartLimits(tenant=limit)) as k:
        plane = Plane(k.plane.database, tmp_path, tenant_bytes=limit)
        k.bench.desk = desk = replace(k.bench.desk, artifacts=plane.artifacts, reader=k.reader)
        fence = await k.left_run()
        part = await k.reader.part("left", 1)
        with pytest.raises(ContentQuotaExceeded):
            await plane.stored(k.bench.stages, "left", "other", b"x" * (len(SONG) + 1), fence=fence)
        await plane.stored(k.bench.stages, "left", "other", b"x" * len(SONG), fence=fence)
        await ExternalParts(k.bench.stages.log, desk).seal(part, fence=fence)  # its bytes do not count twice
        assert await k.used() == limit


async def test_processes_that_fill_a_tenant_together_pass_its_limit_by_their_commits_at_most(
    database: str, tmp_path: Path
) -> None:
    piece, limit = b"x" * 64, 3000
    async with kept(database, tmp_path, limits=PartLimits(tenant=limit)) as k:
        fence = await k.bench.stages.started_run("x")
        parts = [await k.external.open("x", f"p{n}", "text/plain", fence=fence) for n in range(3)]

        async def fill(part: Part) -> None:
            metrics = PartMetrics(Exposition())
            async with PartWriter(k.plane.database, metrics=metrics, tenant_bytes=limit, linger_s=0) as writer:
                place = {"name": part.name, "attempt": 1, "part_id": part.part_id, "tenant": part.tenant}
                mine = writer.open("x", part.n, fence=fence, **place)  # type: ignore[arg-type]
                while mine.error is None:
                    with contextlib.suppress(ContentQuotaExceeded):
                        await mine.write(piece)
                        await mine.flush()

        await asyncio.gather(*map(fill, parts))
        stored = sum(part.size for part in await k.reader.of_run("x"))
        assert limit - len(piece) < stored <= limit + 2 * len(piece)


async def test_far_from_the_limit_nobody_asks_for_each_write() -> None:
    asked: list[Sequence[str]] = []

    async def usage(_sql: str, tenants: Sequence[str]) -> list[Any]:
        asked.append(tenants)
        return [(tenant, 0) for tenant in tenants]

    quota = PartQuota(at_most=16_000_000)
    for _ in range(500):
        await quota.ask(usage, {"a": 1000, "b": 1})
        assert quota.take("a", 1000)
        assert quota.take("b", 1)
    assert len(asked) < 10  # once, and again only on a machine that takes seconds for this
    await quota.ask(usage, {"a": 15_999_999})
    assert quota.take("a", 15_999_999)
    assert not quota.take("a", 2)
    await PartQuota(at_most=0).ask(usage, {"c": 1 << 60})
    assert PartQuota(at_most=0).take("c", 1 << 60)
    assert ["c"] not in asked


async def test_a_large_part_sealed_while_the_store_was_away_ends_with_its_time(database: str, tmp_path: Path) -> None:
    async with kept(database, tmp_path) as k:
        fence = await k.bench.stages.started_run("x")
        part = await k.external.open("x", "song", "text/plain", fence=fence)
        part = await k.external.append(part, LARGE, fence=fence, at=0)
        await k.external.seal(part, fence=fence)
        await k.end("x", fence)
        assert await k.used() == len(LARGE)
        await k.ended_long_ago(9)
        await k.plane.collector(keep_days=8).collect()
        assert await k.used() == 0
        assert await k.plane.database.fetchval("SELECT count(*) FROM part_chunks") == 0
