"""`make archive-bench`: a million events of 20 000 finished runs into a folder, proven, and out of PostgreSQL."""

from __future__ import annotations

import asyncio
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from runwire.archive import ArchiveMetrics, open_store
from runwire.archive.cold import ColdLog
from runwire.archive.ledger import Ledger
from runwire.archive.restoring import Restorer
from runwire.archive.retention import Archiver, Did
from runwire.archive.watching import Watcher
from runwire.bus.memory import MemoryBus
from runwire.db import Database
from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres
from runwire.db.migrate import migrate
from runwire.db.partitions import EventPartitions
from runwire.settings import Settings
from runwire.stream import Cursor, LogReader, NothingLeft, Outlet, Streams
from runwire.telemetry.exposition import Exposition
from runwire.telemetry.logs import configure_logging
from runwire.telemetry.metrics import Metrics

T = TypeVar("T")

RUNS = 20_000
EVENTS = 50
SAMPLE = 200
DAYS_AGO = 40

# Runs of a day 40 days ago, as the pipeline would have left them: nodes, traces, distinct times.
_RUNS = """
INSERT INTO runs (run_id, run_day, agent, state, last_seq, created_at, started_at, finished_at, request_hash, input)
SELECT 'run-' || lpad(r::text, 8, '0') || '-' || substr(md5(r::text), 1, 16), (t.at AT TIME ZONE 'UTC')::date, 'golden',
       'finished', $3, t.at, t.at, t.at, '', ''
FROM generate_series(1, $1::int) AS r, (SELECT now() - $2::int * interval '1 day' AS at) AS t
"""
_EVENTS = """
INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source, name, fn)
SELECT r.run_day, r.run_id, s, (extract(epoch FROM r.started_at) * 1e6)::bigint + s * 200000 + (random() * 100000)::int,
       t.type::event_type, 'worker', CASE WHEN t.type LIKE 'Node%' THEN 'Node' || s / 4 % 9 END,
       CASE WHEN t.type = 'DebugTrace' THEN 'step.' || s % 7 || ':' || substr(md5(r.run_id || s), 1, 6) END
FROM runs AS r, generate_series(1, $1::int) AS s,
     LATERAL (SELECT CASE WHEN s = 1 THEN 'RunStarted' WHEN s = $1 THEN 'RunFinished' WHEN s % 4 = 2 THEN 'NodeStarted'
                          WHEN s % 4 = 1 THEN 'NodeFinished' ELSE 'DebugTrace' END AS type) AS t
"""
_SIZES = """
SELECT (SELECT coalesce(sum(pg_total_relation_size(relid)), 0) FROM pg_partition_tree('run_events') WHERE isleaf),
       pg_total_relation_size('runs'), pg_total_relation_size('archived_runs'), pg_database_size(current_database())
"""


async def main() -> None:
    configure_logging("warning")
    with tempfile.TemporaryDirectory(prefix="runwire-bench-") as folder:
        async with EmbeddedPostgres(EmbeddedOptions(Path(folder) / "postgres")) as postgres:
            await migrate(postgres.dsn)
            async with Database(postgres.dsn, timeout_s=600) as database:
                await _measure(database, Path(folder) / "archive")


async def _measure(database: Database, folder: Path) -> None:
    _say(f"{RUNS * EVENTS:,} events of {RUNS:,} runs, one day, 40 days ago; PostgreSQL with fsync")
    await database.fetchval("SELECT make_event_partition((now() AT TIME ZONE 'UTC')::date - $1::int)", DAYS_AGO)
    await database.execute(_RUNS, RUNS, DAYS_AGO, EVENTS)
    await _timed("made", database.execute(_EVENTS, EVENTS))
    await database.execute("ANALYZE run_events")
    await _sizes(database, "before")

    metrics = ArchiveMetrics(Exposition())
    store = open_store(str(folder))
    reader = LogReader(database, cold=ColdLog(database, lambda: store, metrics=metrics))
    streams = Streams(bus=MemoryBus(), reader=reader, settings=Settings(), metrics=Metrics())
    chosen = random.Random(7).sample(range(RUNS), SAMPLE)  # the same runs each time
    rows = await database.fetch("SELECT run_id FROM runs ORDER BY run_id")
    sample = [rows[n]["run_id"] for n in chosen]
    hot = {run_id: await _replayed(streams, run_id) for run_id in sample}

    archiver = Archiver(database, store, metrics=metrics, writer="runwire benchmark")
    while True:
        began = time.monotonic()
        step = await archiver.step()
        if step.did is Did.NOTHING:
            break
        _say(f"{step.did.value:>9}  {time.monotonic() - began:6.2f} s  {step.runs:,} runs, {step.events:,} events")
    await archiver.aclose()
    await _sizes(database, "after")
    [batch] = await Ledger(database).batches()
    manifest = (folder / batch.manifest_path).stat().st_size
    each = batch.size / batch.events
    _say(f"    file  {batch.size / 1e6:.1f} MB, {each:.1f} bytes an event; manifest {manifest / 1e6:.1f} MB")

    took: list[float] = []
    for run_id in sample:
        began = time.monotonic()
        assert await _replayed(streams, run_id) == hot[run_id], run_id  # what this is about
        took.append((time.monotonic() - began) * 1000)
    quantiles = statistics.quantiles(took, n=100)
    _say(f"  replay  {SAMPLE} random runs equal, byte for byte; p50 {quantiles[49]:.1f} ms, p99 {quantiles[98]:.1f} ms")
    restorer = Restorer(Ledger(database), EventPartitions(database), store, watcher=Watcher())
    await _timed("restored", restorer.batch(batch, keep_days=1))
    _say(f"  memory  {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB at most")


async def _replayed(streams: Streams, run_id: str) -> bytes:
    body = bytearray()

    def write(data: bytes) -> None:
        body.extend(data)

    async with streams.replay(run_id, cursor=Cursor(0), speed=float("inf")) as replay:
        assert not isinstance(replay, NothingLeft)  # nothing of it was read yet
        await replay.run(Outlet(write, lambda: 0, lambda: False, chunked=False))
    return bytes(body)


async def _sizes(database: Database, when: str) -> None:
    row = await database.fetchrow(_SIZES)
    assert row is not None  # a SELECT without FROM has one row
    events, runs, archived, whole = (int(size) / 1e6 for size in row)
    _say(f"{when:>8}  run_events {events:.1f} MB, runs {runs:.1f}, archived_runs {archived:.1f}, database {whole:.1f}")


async def _timed(what: str, work: Awaitable[T]) -> T:
    began = time.monotonic()
    result = await work
    _say(f"{what:>9}  {time.monotonic() - began:6.2f} s")
    return result


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
