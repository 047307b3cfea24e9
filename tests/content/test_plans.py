"""The collector's statements read what they take, and no whole table, however much content there is."""

from __future__ import annotations

import re

from pipeline import raw
from runwire.db import load_sql

CONTENT = load_sql("runwire.content", "content.sql")
PARTS = load_sql("runwire.content", "parts.sql")

FILL = """
INSERT INTO runs (run_id, tenant, agent, state, last_seq, started_at, finished_at, request_hash, input)
SELECT 'r' || n, 't' || n % 7, 'x', CASE WHEN n % 100 = 0 THEN 'started' ELSE 'finished' END::run_state, 3, now(),
       CASE WHEN n % 100 = 0 THEN NULL ELSE now() - n * interval '1 minute' END, '', ''
FROM generate_series(1, 5000) AS n;
INSERT INTO content_blobs (tenant, sha256, size, data)
SELECT tenant, sha256(run_id::text::bytea || k::text::bytea), 100, repeat('x', 100)::bytea
FROM runs, generate_series(1, 3) AS k;
INSERT INTO artifacts (run_id, n, tenant, name, media_type, size, sha256, seq, created_at)
SELECT run_id, k, tenant, 'a', 'text/plain', 100, sha256(run_id::text::bytea || k::text::bytea), 1,
       coalesce(finished_at, now())
FROM runs, generate_series(1, 3) AS k;
INSERT INTO parts (run_id, n, name, media_type, state, size, opened_seq, ended_seq, opened_at)
SELECT run_id, k, 'p' || k, 'text/plain',
       CASE WHEN finished_at IS NULL THEN 'open' ELSE 'abandoned' END::part_state, 100, 1,
       CASE WHEN finished_at IS NULL THEN NULL ELSE 3 END, coalesce(finished_at, now())
FROM runs, generate_series(1, 2) AS k;
INSERT INTO part_chunks SELECT part_id, 0, repeat('x', 100)::bytea FROM parts;
INSERT INTO archive_batches (batch_id, run_day, state, path, format, sha256, verified_at, dropped_at, content_left)
SELECT 'b' || n, current_date - n, 'dropped', 'p', 'f', '', now(), now(), n = 7 FROM generate_series(0, 499) AS n;
INSERT INTO archived_runs
SELECT run_id, 'b' || row_number() OVER () % 500, 0, '{1}', 3, sha256('x'), 1, 'api'
FROM runs WHERE finished_at IS NOT NULL;
"""
STATEMENTS = {
    "collect_blobs": (CONTENT["collect_blobs"], (3600.0, 200)),
    "condemn": (CONTENT["condemn"], (3600.0, 200)),
    "condemned": (CONTENT["condemned"], (200,)),
    "expire artifacts": (CONTENT["expire"], (3, 200)),
    "batch_to_move": (CONTENT["batch_to_move"], ()),
    "to_move": (CONTENT["to_move"], ("b7", 50)),
    "end_left": (PARTS["end_left"], (200,)),
    "expire parts": (PARTS["expire"], (3, 50)),
    "erase a part": (PARTS["erase"], ("r17", 1)),
    "place": (PARTS["place"], ("r17", "p1", 1)),
    "usage": (PARTS["usage"], (["t1", "t2"],)),
    "room": (CONTENT["room"], ("r17", "a", 1, 0)),
}
LARGE = ("content_blobs", "artifacts", "parts", "part_chunks", "runs", "archived_runs")


async def test_no_step_of_the_collector_reads_a_whole_table(database: str) -> None:
    connection = await raw(database)
    try:
        await connection.execute(FILL)
        await connection.execute("DELETE FROM runs WHERE run_id IN ('r11', 'r12')")  # releases some
        await connection.execute("VACUUM ANALYZE")
        for name, (sql, args) in STATEMENTS.items():
            plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {sql}", *args))
            scanned = set(re.findall(r"Seq Scan on (\w+)", plan)) & set(LARGE)
            assert not scanned, f"{name} reads all of {scanned}:\n{plan}"
    finally:
        await connection.close()


async def test_a_part_that_grows_is_updated_in_place(database: str) -> None:
    """No index has a column that a write changes, in its key or in its condition."""
    connection = await raw(database)
    try:
        await connection.execute(
            "INSERT INTO runs (run_id, agent, state, last_seq, started_at, fence, request_hash, input)"
            " VALUES ('r', 'x', 'started', 1, now(), 1, '', '');"
            "INSERT INTO parts (run_id, n, name, media_type, opened_seq) VALUES ('r', 1, 'p', 'text/plain', 1)"
        )
        part_id = await connection.fetchval("SELECT part_id FROM parts")
        for n in range(20):
            assert await connection.fetch(PARTS["write"], [0], [part_id], [1], [n], [b"x"])
        await connection.execute("SELECT pg_stat_force_next_flush()")
        updates = await connection.fetchrow(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'parts'"
        )
        assert updates is not None
        assert tuple(updates) == (20, 20)
    finally:
        await connection.close()
