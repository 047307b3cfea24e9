"""A program of DBOS that walks five steps, in the peers' own environment.

python -m benchmarks.peers.walk_dbos DSN
"""

from __future__ import annotations

import sys

import uvloop
from dbos import DBOS, DBOSConfig, SetWorkflowID

from benchmarks.peers.walk_loop import serve

STEPS = 5


@DBOS.step()
async def step(n: int) -> int:
    return n + 1


@DBOS.workflow()
async def golden() -> int:
    n = 0
    for _ in range(STEPS):
        n = await step(n)
    return n


async def call(name: str) -> None:
    with SetWorkflowID(name):
        found = await golden()
    assert found == STEPS, found


async def main(dsn: str) -> None:
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": dsn,
        "sys_db_pool_size": 40,
        "log_level": "ERROR",
        "notification_coalesce_sec": 0.001,
    }
    DBOS(config=config)
    DBOS.launch()
    await serve(call)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
