"""An agent for `runwire serve`: one node asks PostgreSQL, one says something on its way, one fails."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

import asyncpg

from runwire import END, Agent, Context
from runwire.errors import NodeFailed
from runwire.orchestrate.run_log import TRACE_LINGER_S


@dataclass
class Order:
    broken: bool = False
    rows: int = 0


order = Agent("order", start="Look", state=Order)


@order.node(to="Say", timeout_s=60)
async def look(_ctx: Context, state: Order) -> None:
    connection = await asyncpg.connect(os.environ["RUNWIRE_DATABASE_URL"])
    try:
        state.rows = await connection.fetchval("SELECT count(*) FROM runs")
    finally:
        await connection.close()


@order.node(to=END, timeout_s=60)
async def say(ctx: Context, state: Order) -> None:
    ctx.trace("say.looked")
    await asyncio.sleep(50 * TRACE_LINGER_S)  # it goes on, so what it said is stored on its own
    if state.broken:
        raise NodeFailed("no_stock", retry=False)
