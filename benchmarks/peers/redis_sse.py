"""SSE over Redis Streams: `python -m benchmarks.peers.redis_sse REDIS_PORT PORT`, in the peers' own environment."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import uvloop
from redis.asyncio import Redis

from benchmarks.peers.sse import serve


async def main(redis_port: int, port: int) -> None:
    # A blocked XREAD has its connection to itself.
    redis = Redis(host="127.0.0.1", port=redis_port, decode_responses=True, max_connections=8192, protocol=2)

    async def follow(run_id: str) -> AsyncIterator[list[tuple[str, str]]]:
        last = "0"
        while True:
            for _, entries in await redis.xread({run_id: last}, block=0, count=1000):
                last = entries[-1][0]
                yield [(at, fields["e"]) for at, fields in entries]

    await serve(follow, port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
