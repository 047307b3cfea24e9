"""Servers of streams of chunks behind one interface: parts, written in the process or over HTTP, and peers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from benchmarks.peers import Started, durable_streams, redis_streams
from benchmarks.programs import Crowd, Producer, crowd, producer
from benchmarks.stand import Serving

CONNECTIONS: Final = 64
DEPTH: Final = 32
STREAM: Final = "/api/agents/runs/%s/stream?parts=*"
MARK: Final = 'data: {"part"'
TEXT: Final = '"text":"'
MOST: Final = 1000
"""Chunks that one writer in the process may be ahead of PostgreSQL."""

Write = Callable[[float, float], Awaitable[int]]
"""Writes chunks at a rate of each stream, or with 0 as fast as it goes, for so many seconds. Returns their number."""


@dataclass(frozen=True, slots=True)
class ChunkStreams:
    """Streams under way, each client with all of its one."""

    clients: Crowd
    each: int
    """Clients of a stream."""
    write: Write

    async def turn(self, *, rate: float, seconds: float) -> dict[str, Any]:
        """The clients' figures. Exits unless each chunk came to each client once, whole and in order."""
        await self.clients.reset()
        due = await self.write(rate, seconds) * self.each
        found: dict[str, Any] = await self.clients.expect(due)
        if found["deliveries"] != due or found["wrong"]:
            raise SystemExit(f"{due} deliveries were due: {found}")
        return found

    async def flat_out(self, *, seconds: float) -> float:
        """Deliveries a second, by writes that fill the time: some servers let writers run ahead of the clients."""
        lasts = seconds / 20
        while True:
            found = await self.turn(rate=0, seconds=lasts)
            if found["s"] >= seconds / 2 or lasts >= seconds:
                return float(found["deliveries"] / found["s"])
            lasts = min(seconds, lasts * 4)


class ChunkServer(Protocol):
    def streams(self, prefix: str, count: int, *, clients: int) -> AbstractAsyncContextManager[ChunkStreams]:
        """New streams `prefix`-0 to `prefix`-(count - 1), with so many clients in all."""


@dataclass(frozen=True, slots=True)
class Ours:
    serving: Serving

    @asynccontextmanager
    async def streams(self, prefix: str, count: int, *, clients: int) -> AsyncIterator[ChunkStreams]:
        await self.serving.do("parts", prefix=prefix, count=count)

        async def write(rate: float, seconds: float) -> int:
            what: dict[str, Any] = {"do": "write", "rate": rate} if rate else {"do": "write_many", "ahead": MOST}
            found = await self.serving.do(what.pop("do"), prefix=prefix, seconds=seconds, **what)
            return int(found["written"])

        async with followed(self.serving.port, prefix, count, clients=clients) as crowd_:
            yield ChunkStreams(crowd_, clients // count, write)


@dataclass(frozen=True, slots=True)
class OverHttp:
    """An external orchestrator: a POST for each chunk."""

    serving: Serving

    @asynccontextmanager
    async def streams(self, prefix: str, count: int, *, clients: int) -> AsyncIterator[ChunkStreams]:
        await self.serving.do("parts", prefix=prefix, count=count)
        port = self.serving.port
        async with (
            followed(port, prefix, count, clients=clients) as crowd_,
            producer(
                port, connections=CONNECTIONS, streams=count, prefix=prefix, path="/api/agents/runs/%s/parts/1",
                header="Runwire-Fence: 1",
            ) as writes,
        ):  # fmt: skip
            yield ChunkStreams(crowd_, clients // count, written_by(writes))


@dataclass(frozen=True, slots=True)
class Other:
    """A peer. `path` and `mark` are of its clients; chunks go to `post_path`, or without one by XADD."""

    started: Started
    append_port: int
    path: str
    mark: str
    post_path: str | None = None
    depth: int = 1

    @asynccontextmanager
    async def streams(self, prefix: str, count: int, *, clients: int) -> AsyncIterator[ChunkStreams]:
        await self.started.runs(prefix, count)
        async with (
            crowd(
                self.started.port, clients=clients, runs=count, prefix=prefix, path=self.path, mark=self.mark, key=""
            ) as crowd_,
            producer(
                self.append_port, connections=CONNECTIONS, streams=count, prefix=prefix, path=self.post_path
            ) as writes,
        ):
            yield ChunkStreams(crowd_, clients // count, written_by(writes, depth=self.depth))


def other(name: str, started: Started) -> Other:
    """A peer of that name, under way."""
    if name == durable_streams.PEER.name:
        return Other(started, started.port, "/v1/stream/%s?offset=-1&live=sse", mark="data:", post_path="/v1/stream/%s")
    assert name == redis_streams.PEER.name
    assert isinstance(started, redis_streams.RedisStreams)
    return Other(started, started.append_port, started.path, mark="data: ", depth=DEPTH)


def followed(port: int, prefix: str, count: int, *, clients: int) -> AbstractAsyncContextManager[Crowd]:
    """Clients of runs' streams with the bytes of their parts."""
    return crowd(port, clients=clients, runs=count, prefix=prefix, path=STREAM, mark=MARK, key=TEXT)


def written_by(writes: Producer, *, depth: int = 1) -> Write:
    """`depth`: chunks of a connection under way where there is no rate."""

    async def write(rate: float, seconds: float) -> int:
        found = await writes.write(rate=rate, seconds=seconds, depth=depth)
        return int(found["chunks"])

    return write
