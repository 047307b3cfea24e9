"""Bytes of parts that became no artifact: they are counted, end with their time, and are erased."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from content.erasure import files_with, tables_with
from content.plane import LARGE, Plane
from content.test_parts import Bench, bench
from counting import count
from orchestrate.agents_for_tests import Count
from runwire import Context, NodeFailed
from runwire.append import Change, Stored
from runwire.content.part import PartState
from runwire.content.parts import Ending, PartReader, check_not_erased, events_of, store_endings
from runwire.db import Transaction
from runwire.errors import ContentQuotaExceeded, PartErased, PartRefused
from runwire.model.event import RUN_FINISHED, Source
from runwire.model.run import RunState
from runwire.orchestrate.external_parts import ExternalParts
from runwire.orchestrate.node_parts import PartLimits

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
