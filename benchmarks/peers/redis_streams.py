"""Redis Streams with an append-only file that is flushed at every write, and SSE written by hand over XREAD."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.peers import Peer, Started, Throughput, load
from benchmarks.peers.lines import OverLines
from benchmarks.peers.packages import python_missing, python_module
from benchmarks.processes import found, free_port, listening, system_program, tied


def install() -> str | None:
    return system_program("redis-server", package="redis-server") or python_missing()


class RedisStreams(OverLines):
    path = "/stream/%s"
    mark = "data: {"

    def __init__(self, redis_port: int, port: int) -> None:
        self.port = port
        self.append_port = redis_port

    def encode(self, run_id: str, event: str) -> bytes:
        words = ("XADD", run_id, "*", "e", event)
        return "".join([f"*{len(words)}\r\n", *(f"${len(word)}\r\n{word}\r\n" for word in words)]).encode()

    def answered(self, got: bytes) -> bool:
        """Whether it is the whole answer to XADD, a bulk string; RuntimeError when it is an error."""
        if got.startswith(b"-"):
            raise RuntimeError(got.decode())
        return got.count(b"\r\n") == 2

    async def runs(self, prefix: str, count: int) -> None:
        """Streams are made by the first append."""

    async def throughput(self, prefix: str, runs: int, *, callers: int, seconds: float) -> Throughput | None:
        short = await self._benchmark(prefix, runs, callers=callers, events=callers * 30)
        return await self._benchmark(prefix, runs, callers=callers, events=max(100, round(short.per_s * seconds)))

    async def _benchmark(self, prefix: str, runs: int, *, callers: int, events: int) -> Throughput:
        """By redis-benchmark, as pgbench does it for PostgreSQL."""
        process = await asyncio.create_subprocess_exec(
            *tied(
                found("redis-benchmark"), "-p", str(self.append_port), "-c", str(callers), "-n", str(events),
                "-r", str(runs), "--csv", "XADD", f"{prefix}-__rand_int__", "*", "e", load.event(prefix, 1),
            ),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output = (await process.communicate())[0].decode()
        if process.returncode != 0 or not output.startswith('"test","rps"'):
            raise SystemExit(f"redis-benchmark failed:\n{output}")
        # The first column holds the command, quotation marks and all.
        rps, _avg, _min, p50, _p95, p99, _max = [float(cell.strip('"')) for cell in output.strip().split(",")[-7:]]
        return Throughput(rps, p50, p99)


@asynccontextmanager
async def start(folder: Path, _dsn: str) -> AsyncIterator[Started]:
    redis_port, port = free_port(), free_port()
    configuration = folder / "redis.conf"
    configuration.write_text(
        f'port {redis_port}\nbind 127.0.0.1\ndir "{folder}"\nsave ""\nappendonly yes\nappendfsync always\n'
        "maxclients 20000\ntcp-backlog 8192\n"
    )
    async with (
        listening(redis_port, found("redis-server"), configuration, log=folder / "redis.log"),
        listening(
            port, *python_module("benchmarks.peers.redis_sse", str(redis_port), str(port)), log=folder / "sse.log"
        ),
    ):
        yield RedisStreams(redis_port, port)


PEER = Peer(
    "Redis Streams",
    "redis-server 7.0 of Debian 12, `appendonly yes`, `appendfsync always`, no snapshots; appends by redis-benchmark; "
    "SSE by hand: aiohttp and uvloop, one XREAD BLOCK a run, a queue a client",
    install,
    start,
)
