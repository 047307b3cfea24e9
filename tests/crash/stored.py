"""The log of a run as PostgreSQL has it, in the shape in which clients see it."""

from __future__ import annotations

from typing import Any

import asyncpg

LOG = """
SELECT seq, ts_us / 1000 AS ts, type::text AS type, name, fn FROM run_events WHERE run_id = $1 ORDER BY seq
"""


async def stored_events(connection: asyncpg.Connection[asyncpg.Record], run_id: str) -> list[dict[str, Any]]:
    return [_on_wire(run_id, row) for row in await connection.fetch(LOG, run_id)]


def _on_wire(run_id: str, row: asyncpg.Record) -> dict[str, Any]:
    labels = {key: row[key] for key in ("name", "fn") if row[key] is not None}
    shown = {key: row[key] for key in ("seq", "ts", "type")}
    return {"runId": run_id, **shown, "v": 1, "source": "outbox", **labels}
