"""A service of Restate's SDK that walks five steps, in the peers' own environment.

python -m benchmarks.peers.walk_restate PORT
"""

from __future__ import annotations

import sys
from typing import Any

import restate
import uvloop
from hypercorn.asyncio import serve
from hypercorn.config import Config

NODES = ("EnsureDevice", "Warmup", "OpenApp", "Ping", "Teardown")

walk = restate.Service("walk")


@walk.handler()
async def golden(ctx: restate.Context, _input: dict[str, Any]) -> int:
    n = 0
    for name in NODES:
        n = await ctx.run_typed(name, step, n=n)
    return n


async def step(n: int) -> int:
    return n + 1


def main(port: int) -> None:
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.accesslog = None
    uvloop.run(serve(restate.app([walk]), config))  # type: ignore[arg-type]  # the SDK's own type of an ASGI app


if __name__ == "__main__":
    main(int(sys.argv[1]))
