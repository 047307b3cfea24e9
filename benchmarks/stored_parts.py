"""The bytes that parts take in the files of PostgreSQL and of the content store, while they are open and sealed."""

from __future__ import annotations

import asyncio
import base64
import random
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.chunks import CHUNK_BYTES
from benchmarks.in_process import log_only
from benchmarks.serving import MAKE_RUNS
from runwire.content import ArtifactReader, Artifacts, ContentMetrics, open_content_store
from runwire.content.part import Part
from runwire.content.part_metrics import PartMetrics
from runwire.content.part_writer import OpenPart, PartWriter
from runwire.content.parts import PartReader, Parts
from runwire.db import Database
from runwire.orchestrate import ExternalParts, PartDesk
from runwire.telemetry.exposition import Exposition

SIZES: Final = """
SELECT sum(pg_total_relation_size(name))::bigint
FROM unnest('{parts,part_chunks,artifacts,content_blobs,content_objects,content_usage}'::regclass[]) AS name
"""
TABLES: Final = """
TRUNCATE runs, run_events, run_outbox, parts, part_chunks, artifacts, content_blobs, content_objects, content_usage
CASCADE
"""
VACUUM: Final = "VACUUM parts, part_chunks, artifacts, content_blobs, content_objects, content_usage"
STATE: Final = """
SELECT sum(n_dead_tup)::float8 AS dead, sum(autovacuum_count)::float8 AS vacuums
FROM pg_stat_user_tables WHERE relname IN ('parts', 'part_chunks')
"""


@dataclass(frozen=True, slots=True)
class _Tables:
    """Empty tables of content at first, with what writes to them."""

    database: Database
    external: ExternalParts
    writer: PartWriter
    folder: Path
    empty: int

    async def taken(self) -> int:
        """Bytes in files, beyond those of the empty tables."""
        return int(await self.database.fetchval(SIZES)) - self.empty + sum(map(_file_bytes, self.folder.rglob("*")))

    async def opened(self, prefix: str, count: int) -> list[tuple[Part, OpenPart]]:
        await self.database.execute(MAKE_RUNS, prefix, count, 1)
        parts = [await self.external.open(f"{prefix}-{n}", "answer", "text/plain", fence=1) for n in range(count)]
        return [
            (part, self.writer.open(part.run_id, part.n, name=part.name, attempt=1, part_id=part.part_id, fence=1))
            for part in parts
        ]

    async def sealed(self, parts: Sequence[tuple[Part, OpenPart]]) -> None:
        for part, open_part in parts:
            size = open_part.stored
            open_part.close()
            await self.external.seal(replace(part, size=size), fence=1)
        await self.database.execute(VACUUM)


async def stored_bytes(dsn: str, *, parts: int, each: int, large: int) -> dict[str, float]:
    """Bytes for each byte of content, by what it is of. `large`: the size of a part for the content store."""
    figures: dict[str, float] = {}
    async with _tables(dsn) as tables:
        opened = await tables.opened("small", parts)
        payload = await _write_in_chunks([part for _, part in opened], each=each)
        figures[f"stored bytes a byte, {parts} open parts of {each} bytes"] = await tables.taken() / payload
        state = await tables.database.fetchrow(STATE)
        assert state is not None
        figures["of them, dead rows that are counted"] = state["dead"]
        figures["of them, runs of autovacuum"] = state["vacuums"]
        await tables.sealed(opened)
        figures["stored bytes a byte, the same parts sealed, in PostgreSQL"] = await tables.taken() / payload
    async with _tables(dsn) as tables:
        opened = await tables.opened("large", max(1, parts // 5))
        for n, (_, part) in enumerate(opened):
            await part.write(_text(n, large))
            await part.flush()
        await tables.sealed(opened)
        payload = large * len(opened)
        figures[f"stored bytes a byte, sealed parts of {large} bytes, in the store"] = await tables.taken() / payload
    return figures


@asynccontextmanager
async def _tables(dsn: str) -> AsyncIterator[_Tables]:
    out = Exposition()
    metrics, part_metrics = ContentMetrics(out), PartMetrics(out)
    with tempfile.TemporaryDirectory(prefix="runwire-bench-content-") as folder:
        store = open_content_store(folder, failures=metrics.store_failures, patience_s=30)
        async with log_only(dsn) as log, Database(dsn) as database:
            await database.execute(TABLES)
            async with PartWriter(database, metrics=part_metrics, linger_s=0) as writer:
                artifacts = Artifacts(database, store, metrics=metrics)
                reader = PartReader(database, artifacts=ArtifactReader(database, store, metrics=metrics))
                external = ExternalParts(log, PartDesk(Parts(database), writer, artifacts=artifacts, reader=reader))
                empty = int(await database.fetchval(SIZES))
                yield _Tables(database, external, writer, Path(folder), empty)


async def _write_in_chunks(parts: Sequence[OpenPart], *, each: int) -> int:
    """About so many bytes to each, a commit for each chunk. Returns the sum."""
    text = _text(0, each + CHUNK_BYTES * len(parts))
    for n, part in enumerate(parts):  # so that they do not all fill a row in the same commit
        await part.write(text[: n * 7 % 1000])
    for at in range(0, each, CHUNK_BYTES):
        for n, part in enumerate(parts):
            await part.write(text[at + n * CHUNK_BYTES :][:CHUNK_BYTES])
        await asyncio.gather(*(part.flush() for part in parts))
    return sum(part.stored for part in parts)


def _text(seed: int, size: int) -> bytes:
    """Text that does not compress."""
    return base64.b64encode(random.Random(seed).randbytes(size))[:size]


def _file_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
