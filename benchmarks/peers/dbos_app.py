"""A program of DBOS that writes streams and serves them over SSE, in the peers' own environment.

python -m benchmarks.peers.dbos_app DSN PORT     answers {}, then every command with a line of JSON

A run is a workflow that lasts; what it is to write reaches it through a queue in memory, and it writes one event after
the other. `closed` has as many workflows as callers, since a workflow is what writes.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvloop
from dbos import DBOS, DBOSConfig, SetWorkflowID

from benchmarks.peers import load
from benchmarks.peers.sse import serve

KEY = "events"
Order = tuple[str, asyncio.Future[None]]
_orders: dict[str, asyncio.Queue[Order]] = {}
_running: set[asyncio.Task[None]] = set()


@DBOS.workflow()
async def run() -> None:
    orders = _orders[DBOS.workflow_id or ""]
    while True:
        event, written = await orders.get()
        await DBOS.write_stream_async(KEY, event)
        written.set_result(None)


async def append(run_id: str, event: str) -> None:
    written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    _orders[run_id].put_nowait((event, written))
    await written


async def follow(run_id: str) -> AsyncIterator[list[tuple[str, str]]]:
    at = 0
    async for event in DBOS.read_stream_async(run_id, KEY):
        yield [(str(at), event)]
        at += 1


async def runs(prefix: str, count: int) -> dict[str, Any]:
    for n in range(count):
        run_id = f"{prefix}-{n}"
        _orders[run_id] = asyncio.Queue()
        with SetWorkflowID(run_id):
            await DBOS.start_workflow_async(run)
    return {}


async def count(prefix: str, runs: int, callers: int, events: int) -> dict[str, Any]:
    await load.count(append, prefix, runs, callers=callers, events=events)
    return {}


async def rate(prefix: str, runs: int, rate: float, seconds: float) -> dict[str, Any]:
    return {"appended": await load.rate(append, prefix, runs, per_s=rate, seconds=seconds)}


async def closed(prefix: str, runs: int, callers: int, seconds: float) -> dict[str, Any]:
    latencies = await load.closed(append, prefix, runs, callers=callers, seconds=seconds)
    cuts = statistics.quantiles(latencies, n=100)
    return {"per_s": len(latencies) / seconds, "p50_ms": cuts[49] * 1000, "p99_ms": cuts[98] * 1000}


async def main(dsn: str, port: int) -> None:
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": dsn,
        "sys_db_pool_size": 40,
        "log_level": "ERROR",
        "notification_coalesce_sec": 0.001,
    }
    DBOS(config=config)
    DBOS.launch()
    await serve(follow, port)
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print(json.dumps({}), flush=True)
    do = {"runs": runs, "count": count, "rate": rate, "closed": closed}
    while line := await commands.readline():
        command = json.loads(line)
        print(json.dumps(await do[command.pop("do")](**command)), flush=True)


if __name__ == "__main__":
    try:
        uvloop.run(main(sys.argv[1], int(sys.argv[2])))
    finally:
        sys.stdout.flush()
