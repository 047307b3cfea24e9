"""Looks for bytes that ought to be gone."""

from __future__ import annotations

from pathlib import Path

from runwire.db import Database


async def tables_with(database: Database, canary: str) -> set[str]:
    """The tables that have the text in any column, also as bytes."""
    tables = await database.fetch(
        "SELECT format('%I', c.relname) AS name FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname = current_schema()"
    )
    assert tables
    return {
        row["name"]
        for row in tables
        if await database.fetchval(
            f"SELECT EXISTS (SELECT FROM {row['name']} AS t WHERE t::text LIKE $1 OR t::text LIKE $2)",  # noqa: S608
            f"%{canary}%",
            f"%{canary.encode().hex()}%",
        )
    }


def files_with(folder: Path, canary: str) -> set[Path]:
    return {file for file in folder.rglob("*") if file.is_file() and canary.encode() in file.read_bytes()}
