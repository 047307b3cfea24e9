"""Content that was there before it had a life of its own is counted, ends and is collected like any other."""

from __future__ import annotations

from pathlib import Path

from content.plane import Plane
from pipeline import raw, stages
from postgres import empty_database
from runwire.content.parts import PartReader
from runwire.db.migration import migrations

BEFORE = "0026"
ROWS = """
INSERT INTO runs (run_id, tenant, agent, state, last_seq, started_at, finished_at, request_hash, input)
SELECT 'r' || n, 't', 'x', 'finished', 3, now(), now(), '', '' FROM generate_series(1, 2) AS n;
INSERT INTO parts (run_id, n, name, media_type, state, size, row_at, tail, opened_seq, ended_seq) VALUES
    ('r1', 1, 'p', 'text/plain', 'abandoned', 4, 2, 'cd', 1, 2),
    ('r1', 2, 'q', 'text/plain', 'sealed', 2, 0, NULL, 1, 2),
    ('r1', 3, 'r', 'text/plain', 'open', 3, 0, 'xyz', 1, NULL);
INSERT INTO part_chunks SELECT part_id, 0, 'ab' FROM parts WHERE n <= 2;
INSERT INTO content_blobs (tenant, sha256, size, data)
VALUES ('t', sha256('kept'), 4, 'kept'), ('t', sha256('left'), 4, 'left');
INSERT INTO artifacts (run_id, n, tenant, name, media_type, size, sha256, seq)
VALUES ('r2', 1, 't', 'a', 'text/plain', 4, sha256('kept'), 1);
"""


async def test_content_of_an_earlier_schema_is_counted_and_collected(postgres_dsn: str, tmp_path: Path) -> None:
    async with empty_database(postgres_dsn) as dsn:
        connection = await raw(dsn)
        try:
            for migration in migrations():
                await connection.execute(migration.sql)
                if migration.name.startswith(BEFORE):
                    await connection.execute(ROWS)
        finally:
            await connection.close()
        async with stages(dsn) as s:
            plane = Plane(s.database, tmp_path)
            assert await s.database.fetchval("SELECT sum(bytes)::bigint FROM content_usage") == 4 + 2 + 4 + 4
            await plane.collector().collect()
            await plane.check(collected=True)
            assert await s.database.fetchval("SELECT sum(bytes)::bigint FROM content_usage") == 4 + 2 + 3 + 4
            assert await plane.bytes_of("r2", 1) == b"kept"
            reader = PartReader(s.database)
            assert [(await reader.read("r1", n, offset=0, limit=9)).data for n in (1, 2, 3)] == [b"abcd", b"ab", b"xyz"]
            await s.database.execute("UPDATE parts SET opened_at = opened_at - interval '9 days'")
            await s.database.execute("UPDATE runs SET finished_at = finished_at - interval '9 days'")
            await plane.collector(keep_days=8).collect()
            assert await s.database.fetchval("SELECT sum(bytes)::bigint FROM content_usage") == 4
            assert [part.erased for part in await reader.of_run("r1")] == [True] * 3
