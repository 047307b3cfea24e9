"""Shows how lists of runs are read from a big table: `make list-plans`. RUNS=10000000 needs 10 GB for a while.

Fills a PostgreSQL of its own with runs, then reads the first page and one from the middle of the list, for every
combination of the list's filters, and prints for each: milliseconds, buffers, and the scans of its plan. Ends with 1
where a page reads a whole table, or more buffers than a page may.
"""  # noqa: INP001  # a script
# ruff: noqa: T201  # it prints

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg

from runwire.db import load_sql
from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres
from runwire.db.migrate import migrate
from runwire.orchestrate.run_view import SCAN_MAX

SETTINGS: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "maintenance_work_mem": "1GB",
    "max_wal_size": "16GB",
    "shared_buffers": "1GB",
}
FILL: Final = """
INSERT INTO runs (run_id, agent, state, last_seq, session, labels, error_code, request_hash, input,
                  created_at, started_at, finished_at)
SELECT 'r' || n, 'a' || n % 7, CASE WHEN n % 50 = 0 THEN 'failed' WHEN n % 1000 = 1 THEN 'cancelled' ELSE 'finished' END
       ::run_state, 1, CASE WHEN n % 10 < 2 THEN 's' || n / 200 END,
       CASE WHEN n % 20 = 0 THEN jsonb_build_object('env', 'e' || n / 20 % 3) ELSE '{}' END,
       CASE WHEN n % 50 = 0 THEN CASE WHEN n % 5000 = 0 THEN 'rare' ELSE 'boom' END END, '', '', t, t,
       t + interval '1 s'
FROM generate_series($1::int, $2::int) AS n,
     LATERAL (SELECT timestamptz '2026-01-01Z' + n * interval '1 s' AS t) AS moment
"""
CHUNK: Final = 500_000
LIMIT: Final = 50
BUFFERS_MAX: Final = 8 * SCAN_MAX
"""Of one page: it looks at `SCAN_MAX` runs at most, each by the primary key."""
PAGE: Final = load_sql("runwire.orchestrate", "orchestrate.sql")["page"]
TABLES: Final = {"runs", "run_labels"}
READ: Final = """
SELECT c.relname, pg_stat_get_xact_tuples_returned(c.oid) AS read FROM pg_class AS c
WHERE c.relkind IN ('r', 'i') AND c.relname ~ '^run(s|_labels)' AND pg_stat_get_xact_tuples_returned(c.oid) > 0
"""
"""Rows that this transaction read of each index, and of each table by a sequential scan."""
AUTO_EXPLAIN: Final = """
LOAD 'auto_explain';
SET auto_explain.log_min_duration = 0;
SET auto_explain.log_analyze = on;
SET auto_explain.log_buffers = on;
SET auto_explain.log_nested_statements = on;
SET client_min_messages = log
"""
FILTERS: Final = ("state", "agent", "session", "label", "error", "time")


async def fill(connection: asyncpg.Connection[asyncpg.Record], runs: int) -> None:
    """Without indexes, which are built afterwards: that is several times as fast."""
    indexes = await connection.fetch(
        "SELECT i.indexname, i.indexdef FROM pg_indexes AS i WHERE i.tablename IN ('runs', 'run_labels')"
        " AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conname = i.indexname)"
    )
    for index in indexes:
        await connection.execute(f"DROP INDEX {index['indexname']}")
    for first in range(1, runs + 1, CHUNK):
        await connection.execute(FILL, first, min(first + CHUNK - 1, runs), timeout=3600)
        say(f"{min(first + CHUNK - 1, runs)} runs")
    for index in indexes:
        await connection.execute(index["indexdef"], timeout=3600)
    await connection.execute("VACUUM (ANALYZE) runs", timeout=3600)
    await connection.execute("VACUUM (ANALYZE) run_labels", timeout=3600)
    say(f"{await connection.fetchval('SELECT pg_size_pretty(pg_database_size(current_database()))')} on disk")


def lists(runs: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Each list and page by name, with its arguments of the statement `page`."""
    epoch_ms = 1_767_225_600_000  # that of the first run
    values = {
        "state": "failed",
        "agent": "a3",
        "session": f"s{runs // 400}",
        "label": '{"env": "e1"}',
        "error": "rare",
        "time": (epoch_ms + runs * 100, epoch_ms + runs * 800),
    }
    for count in range(len(FILTERS) + 1):
        for chosen in itertools.combinations(FILTERS, count):
            of = {name: values[name] for name in chosen}
            since, until = of.get("time", (None, None))
            for ended, before in itertools.product((False, True), (None, epoch_ms + runs * 500)):
                name = f"{'+'.join(chosen) or 'all'} by {'end' if ended else 'creation'}{', deep' if before else ''}"
                yield (
                    name,
                    (
                        *("default", ended, of.get("session"), of.get("label", "{}"), of.get("agent"), of.get("state")),
                        *(of.get("error"), since, until, 2**53 - 1 if before is None else before * 1000, ""),
                        *(LIMIT + 1, SCAN_MAX),
                    ),
                )


async def explained(connection: asyncpg.Connection[asyncpg.Record], arguments: tuple[Any, ...]) -> list[str]:
    """The plan of the page with what it did, after those that its functions ran, where auto_explain is installed."""
    heard: list[str] = []

    def listen(_connection: object, message: Any) -> None:
        heard.append(message.message)

    connection.add_log_listener(listen)
    try:
        rows = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS) {PAGE}", *arguments)
    finally:
        connection.remove_log_listener(listen)
    return [*heard, "\n".join(row[0] for row in rows)]


async def rows_read(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, int]:
    return {row["relname"]: row["read"] for row in await connection.fetch(READ)}


async def shown(dsn: str, *, runs: int, whole: bool) -> int:
    """Prints all lists; how many read too much."""
    connection = await asyncpg.connect(dsn)
    wrong = 0
    try:
        await fill(connection, runs)
        with contextlib.suppress(asyncpg.UndefinedFileError):  # not every installation has it
            await connection.execute(AUTO_EXPLAIN)
        for name, arguments in lists(runs):
            async with connection.transaction():
                before = await rows_read(connection)
                began = time.perf_counter()
                plans = await explained(connection, arguments)
                took_ms = (time.perf_counter() - began) * 1000
                read = {what: n - before.get(what, 0) for what, n in (await rows_read(connection)).items()}
            found = re.search(r"Buffers: shared(?: hit=(\d+))?(?: read=(\d+))?", plans[-1])
            buffers = sum(int(count or 0) for count in found.groups()) if found else 0
            scans = [what for what, n in read.items() if n]
            bad = not TABLES.isdisjoint(scans) or buffers > BUFFERS_MAX
            wrong += bad
            print(f"{'WRONG ' if bad else ''}{name:<62} {took_ms:8.1f} ms {buffers:7} buffers  {', '.join(scans)}")
            if whole or bad:
                print("\n".join(plans))
    finally:
        await connection.close()
    return wrong


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000_000)
    parser.add_argument(
        "--bin-dir", type=Path, help="the folder with the PostgreSQL to use; default as for an embedded one"
    )
    parser.add_argument("--plans", action="store_true", help="print every plan, too")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="runwire-list-plans-") as folder:
        postgres = EmbeddedPostgres(
            EmbeddedOptions(Path(folder) / "postgres", bin_dir=asked.bin_dir, settings=SETTINGS)
        )
        await postgres.start()
        try:
            await migrate(postgres.dsn)
            wrong = await shown(postgres.dsn, runs=asked.runs, whole=asked.plans)
        finally:
            await postgres.stop()
    print(f"{wrong} lists read too much" if wrong else "no list reads a whole table, or too many buffers")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
