"""The reference server of Durable Streams, in Node.js: an HTTP protocol of append-only streams, with SSE."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.peers import Peer, Started, Throughput, load
from benchmarks.peers.lines import OverLines, http_post
from benchmarks.peers.packages import HERE, npm_packages
from benchmarks.processes import free_port, listening
from benchmarks.programs import post


def install() -> str | None:
    folder = npm_packages()
    return folder if isinstance(folder, str) else None


class DurableStreams(OverLines):
    path = "/v1/stream/%s?offset=now&live=sse"
    mark = 'data:{"runId"'  # control events are lines of JSON too

    def __init__(self, port: int) -> None:
        self.port = self.append_port = port

    async def runs(self, prefix: str, count: int) -> None:
        slots = asyncio.Semaphore(32)

        async def make(n: int) -> None:
            async with slots:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(
                    f"PUT /v1/stream/{prefix}-{n} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n"
                    "Connection: close\r\nContent-Length: 0\r\n\r\n".encode()
                )
                answer = await reader.read()
                writer.close()
                assert answer.startswith(b"HTTP/1.1 201"), answer

        await asyncio.gather(*(make(n) for n in range(count)))

    async def throughput(self, prefix: str, runs: int, *, callers: int, seconds: float) -> Throughput | None:
        event = load.event(prefix, 1) + "\n"
        found = await post(
            self.port,
            producers=callers,
            runs=runs,
            prefix=prefix,
            batch=1,
            seconds=seconds,
            path="/v1/stream/%s",
            body=event,
            content_type="text/plain",
        )
        return Throughput(found["events"] / found["s"], found["p50_ms"], found["p99_ms"])

    def encode(self, run_id: str, event: str) -> bytes:
        return http_post(f"/v1/stream/{run_id}", event + "\n", content_type="text/plain")


@asynccontextmanager
async def start(folder: Path, _dsn: str) -> AsyncIterator[Started]:
    packages = npm_packages()
    assert isinstance(packages, Path)
    script = shutil.copy(HERE / "durable_streams.mjs", packages)
    port = free_port()
    node = shutil.which("node") or "nodejs"
    async with listening(port, node, script, folder / "data", str(port), log=folder / "node.log"):
        yield DurableStreams(port)


PEER = Peer(
    "Durable Streams",
    "@durable-streams/server 0.3.7 (npm), the reference server, with its file store (fdatasync for every append) and "
    "16,384 open files instead of 100 (with more streams than that under way its appends fail), compression off; text "
    "streams, which spares it parsing JSON",
    install,
    start,
)
