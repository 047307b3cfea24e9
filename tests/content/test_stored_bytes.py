"""The room that parts take in PostgreSQL, by the sizes of its files; and the rows that hold their bytes."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import Stages, stages
from postgres import SETTINGS
from runwire.content.part import PartState
from runwire.content.part_metrics import PartMetrics
from runwire.content.part_writer import PLANS, OpenPart, PartWriter
from runwire.content.parts import Ending, PartReader, Parts, end_within, open_within
from runwire.db import load_sql
from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres
from runwire.db.migrate import migrate
from runwire.errors import PartMoved

ROW = 972
SIZES = "SELECT pg_total_relation_size('parts') + pg_total_relation_size('part_chunks')"
ACTIVE = """
WITH made AS (
    INSERT INTO runs (run_id, agent, state, external, last_seq, fence, lease_owner, lease_until, lease_s, started_at,
                      request_hash, input)
    SELECT 'active-' || n, 'bench', 'started', true, 1, 1, 'external', now() + interval '1 hour', 3600, now(), '', ''
    FROM generate_series(1, $1::int) AS n
    RETURNING run_id
)
INSERT INTO parts (run_id, n, name, media_type, opened_seq, tail) SELECT run_id, 1, 'p', 'text/plain', 1, '' FROM made
"""
OLD_LAYOUT = """
INSERT INTO parts (run_id, n, name, media_type, opened_seq, size, row_at)
VALUES ('r', 1, 'old', 'text/plain', 1, 6, 4) RETURNING part_id
"""


@dataclass
class Rows:
    """The tables of parts, with a writer."""

    stages: Stages
    writer: PartWriter
    reader: PartReader

    async def opened(self, run_id: str, *, name: str = "p", fence: int | None = None) -> OpenPart:
        fence = fence or await self.stages.started_run(run_id)
        parts = Parts(self.stages.database)
        place = await parts.place(run_id, name, at_most=100)
        part_id = await self.stages.database.in_transaction(
            lambda t: open_within(t, run_id, place, name=name, media_type="text/plain", seq=2)
        )
        return self.writer.open(run_id, place.n, name=name, attempt=place.attempt, part_id=part_id, fence=fence)

    async def write(self, parts: Sequence[OpenPart], data: bytes) -> None:
        """The bytes to each part, committed together."""
        for part in parts:
            await part.write(data)
        await asyncio.gather(*(part.flush() for part in parts))

    async def chunks(self, part_id: int) -> list[tuple[int, int]]:
        """Offset and length of each row."""
        found = await self.stages.database.fetch(
            "SELECT at, octet_length(bytes) AS n FROM part_chunks WHERE part_id = $1 ORDER BY at", part_id
        )
        return [(row["at"], row["n"]) for row in found]

    async def tail(self, part_id: int) -> bytes | None:
        found: bytes | None = await self.stages.database.fetchval("SELECT tail FROM parts WHERE part_id = $1", part_id)
        return found

    async def content(self, run_id: str, n: int = 1, *, offset: int = 0, limit: int = 1 << 20) -> bytes:
        return (await self.reader.read(run_id, n, offset=offset, limit=limit)).data


@asynccontextmanager
async def rows(dsn: str) -> AsyncIterator[Rows]:
    async with stages(dsn) as s, PartWriter(s.database, metrics=PartMetrics(s.metrics.out), linger_s=0) as writer:
        yield Rows(s, writer, PartReader(s.database))


async def test_open_parts_take_a_fifth_more_than_their_bytes_at_most(tmp_path: Path) -> None:
    """Without a vacuum. Each write is a commit of its own. Old versions of rows stay for as long as any transaction of
    the server is older, so this server has no other databases.
    """
    text = random.Random(7).randbytes(1000)  # a test's, and no secret
    async with EmbeddedPostgres(EmbeddedOptions(tmp_path / "postgres", settings=SETTINGS)) as server:
        await migrate(server.dsn)
        async with rows(server.dsn) as r:
            fence = await r.stages.started_run("r")
            parts = [await r.opened("r", name=f"p{n}", fence=fence) for n in range(40)]
            empty = await r.stages.database.fetchval(SIZES)
            for n, part in enumerate(parts):  # so that they do not all fill a row in the same commit
                await part.write(text[: n * 24])
            for k in range(300):
                await r.write(parts, text[k : k + 192])
            taken = await r.stages.database.fetchval(SIZES) - empty
            payload = sum(part.stored for part in parts)
            assert payload >= 40 * 300 * 192
            assert taken <= 1.2 * payload, taken / payload


async def test_a_write_looks_at_its_parts_and_their_runs_alone(database: str) -> None:
    """By the pages that it reads; many runs are active, and the plan is that of a new session."""
    count = 100
    async with rows(database) as r:
        await r.stages.database.execute(ACTIVE, count)
        ids = [row["part_id"] for row in await r.stages.database.fetch("SELECT part_id FROM parts ORDER BY part_id")]
        write = load_sql("runwire.content", "parts.sql")["write"]
        session = r.stages.database.session("parts", settings=PLANS)
        try:
            (row,) = await session.fetch(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) {write}",
                *(range(count), ids, [1] * count, [0] * count, [b"x" * 40] * count),
            )
        finally:
            await session.aclose()
        plan = json.loads(row[0])[0]["Plan"]
        assert plan["Actual Rows"] == count
        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 40 * count


async def test_bytes_fill_rows_and_the_rest_is_in_the_part(database: str) -> None:
    text = bytes(random.Random(7).choices(b"abcdefgh", k=20_000))  # a test's, and no secret
    async with rows(database) as r:
        part = await r.opened("r")
        at = 0
        for size in (1, 40, 930, 1, 972, 971, 1, 5000, 40, 3 * 972, 0, 700, 700, 972):
            if size:
                await r.write([part], text[at : at + size])
            at += size
            assert await r.content("r") == text[:at]
            assert await r.tail(part.part_id) == text[at - at % ROW : at]
        assert {start % ROW for start, _ in await r.chunks(part.part_id)} == {0}
        assert {size % ROW for _, size in await r.chunks(part.part_id)} == {0}
        for offset in (0, 1, 971, 972, 973, 5000, at - at % ROW - 1, at - at % ROW, at - 1, at, at + 1):
            for limit in (1, 40, 972, 1000, 1 << 20):
                assert await r.content("r", offset=offset, limit=limit) == text[offset : min(offset + limit, at)]


async def test_a_read_that_ends_within_its_rows_has_no_tail(database: str) -> None:
    async with rows(database) as r:
        part = await r.opened("r")
        for n in range(300):
            await part.write(b"%03d" % n * (ROW // 3))
            await part.flush()
        await r.write([part], b"tail")
        read = await r.reader.read("r", 1, offset=0, limit=1 << 30)
        assert 0 < len(read.data) <= part.stored
        assert b"tail" not in read.data
        assert await r.content("r", offset=300 * ROW - 2) == b"99tail"


async def test_writes_by_anybody_to_the_same_part_at_once_lose_nothing(database: str) -> None:
    async with rows(database) as r:
        fence = await r.stages.started_run("r")
        open_part = await r.opened("r", fence=fence)
        part = await r.reader.part("r", 1)
        words = [b"%04d" % n * 60 for n in range(40)]
        sizes = await asyncio.gather(*(r.writer.write_once(part, word, fence=fence, at=None) for word in words))
        content = await r.content("r")
        assert sorted(sizes) == [240 * (n + 1) for n in range(40)]
        assert sorted(content[at : at + 240] for at in range(0, len(content), 240)) == words
        with pytest.raises(PartMoved):
            await r.writer.write_once(part, b"x", fence=fence, at=1)
        open_part.close()


async def test_a_part_that_an_older_release_opened_goes_on(database: str) -> None:
    async with rows(database) as r:
        fence = await r.stages.started_run("r")
        part_id = await r.stages.database.fetchval(OLD_LAYOUT)
        await r.stages.database.execute("INSERT INTO part_chunks VALUES ($1, 0, 'old '), ($1, 4, 'ro')", part_id)
        assert await r.content("r") == b"old ro"
        part = r.writer.open("r", 1, name="old", attempt=1, part_id=part_id, fence=fence, size=6)
        await r.write([part], b"ws and ")
        await r.write([part], b"new" * 400)
        assert await r.content("r") == b"old rows and " + b"new" * 400
        assert await r.content("r", offset=5, limit=4) == b"ows "
        part.close()


async def test_a_part_that_became_an_artifact_keeps_no_bytes(database: str) -> None:
    async with rows(database) as r:
        part = await r.opened("r")
        await r.write([part], b"secret")
        ending = Ending(part.part_id, 1, "p", PartState.SEALED, size=6)
        await r.stages.database.in_transaction(lambda t: end_within(t, "r", [(ending, 3, 1)]))
        assert await r.tail(part.part_id) == b""


async def test_the_bytes_of_an_attempt_that_is_begun_again_are_gone(database: str) -> None:
    async with rows(database) as r:
        fence = await r.stages.started_run("r")
        first = await r.opened("r", fence=fence)
        await r.write([first], b"half" * 500)
        ending = Ending(first.part_id, 1, "p", PartState.ABANDONED)
        await r.stages.database.in_transaction(lambda t: end_within(t, "r", [(ending, 3, None)]))
        assert await r.content("r") == b"half" * 500
        again = await r.opened("r", fence=fence)
        assert (await r.content("r"), await r.tail(again.part_id)) == (b"", b"")
        first.close()
        again.close()
