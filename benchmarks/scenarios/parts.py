"""Parts beside events: from the write of a chunk to its bytes at a client, and what it costs and keeps.

Producers write chunks of 40 bytes. Every client checks every byte that it gets. Events are appended in the same round,
to as many runs at the same rate, and go to as many clients. Peers get the same chunks: a stream for each part.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.peers import Peer, durable_streams, redis_streams
from benchmarks.peers.chunk_servers import CONNECTIONS, DEPTH, ChunkServer, Ours, OverHttp, followed, other
from benchmarks.processes import cpu_s, server_pid
from benchmarks.programs import Crowd, crowd
from benchmarks.stand import Serving, Stand
from benchmarks.stored_parts import stored_bytes

NAME = "parts"
TITLE = "Parts: chunks of 40 bytes from the write to a client, beside events and other servers"
OURS = "runwire"
EVENTS = "its events"
HTTP = "runwire over HTTP"
PEERS: tuple[Peer, ...] = (durable_streams.PEER, redis_streams.PEER)
RATE: Final = 20
"""Chunks per second of a part: about as fast as a language model writes."""
WINDOW_MS: Final = 20.0
FEWEST: Final = 50

Rows = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything. `clients` are those of one part."""

    parts: int = 1000
    clients: int = 1000
    windows_ms: tuple[float, ...] = (WINDOW_MS, 0.0)
    peers: bool = True
    stored_parts: int = 300
    stored_bytes: int = 32_768
    large_bytes: int = 1_048_576


WHOLE: Final = Size()
SMOKE: Final = Size(
    parts=20, clients=20, windows_ms=(WINDOW_MS,), peers=False, stored_parts=5, stored_bytes=2048, large_bytes=300_000
)


def missing() -> dict[str, str]:
    """The missing programs, by the name of the peer, in a sentence each. Installs what it can."""
    return {peer.name: why for peer in PEERS if (why := peer.install())}


def notes() -> list[str]:
    """How each is run, or why it is not; and how to read the figures."""
    absent = missing()
    ours = (
        f"{OURS}: one process with every role, telemetry on, PostgreSQL with fsync and synchronous_commit on. Nodes in "
        "the process write, as `ctx.part` does. Clients follow the stream of the run with `parts=*`. The window is "
        f"`RUNWIRE_PART_LINGER_MS`: {WINDOW_MS:g} ms, or none. It spaces commits; a part that is alone waits for none."
    )
    stored = (
        "Stored bytes are `pg_total_relation_size` of the tables, less that of the empty tables, and the files of the "
        "content store. The bytes do not compress. Open: a commit for each chunk, autovacuum on, no vacuum by hand. "
        "Sealed: after a vacuum. Room of open parts that later parts can use counts."
    )
    durable = (
        f"{durable_streams.PEER.name} speaks its protocol to any client and makes streams on request. It knows no "
        "runs, fences, attempts or tenants. It stores a chunk before it answers. An append waits for the one before."
    )
    redis = (
        f"{redis_streams.PEER.name} stores an entry for each chunk, not bytes that resume at any offset, and its SSE "
        f"server here checks no access. As fast as it writes, {DEPTH} chunks of a connection are under way."
    )
    return [
        ours,
        f"{EVENTS}: appended in the same process at the same rate, to as many runs, with as many clients.",
        f"{HTTP}: an external orchestrator, a POST for each chunk over {CONNECTIONS} connections.",
        "CPU is that of the process, which makes the load, too. The line after it has that of PostgreSQL as well.",
        stored,
        *(f"{peer.name}: {absent.get(peer.name, peer.settings)}." for peer in PEERS),
        durable,
        redis,
    ]


async def measure(stand: Stand) -> Rows:
    size = SMOKE if stand.smoke else WHOLE
    rows: Rows = {}
    for window_ms in size.windows_ms:
        label = f"window of {window_ms:g} ms" if window_ms else "no window"
        async with stand.serving("parts", part_linger_ms=window_ms) as serving:
            paced = _Paced(stand, serving, rows, f"{size.parts} parts at {RATE} chunks/s, {label}", size.parts)
            await paced.parts()
            if window_ms:
                await paced.events()
            if window_ms == size.windows_ms[-1]:
                await _one_to_many(stand, serving, rows, clients=size.clients)
    if size.peers:
        await _beside_peers(stand, rows, size)
    dsn = await stand.database("stored_parts")
    stored = await stored_bytes(dsn, parts=size.stored_parts, each=size.stored_bytes, large=size.large_bytes)
    rows |= {what: {OURS: figure} for what, figure in stored.items()}
    return rows


def compare(rows: Rows) -> None:
    """How many times as good as the others runwire is: more of what is a rate, less of what is a time."""
    for what, row in rows.items():
        if not what.endswith((" ms", " us", "/s")):
            continue
        for name in (EVENTS, *(peer.name for peer in PEERS)):
            if (theirs := row.get(name)) and (ours := row.get(OURS)):
                row[f"x {name}"] = ours / theirs if what.endswith("/s") else theirs / ours


@dataclass(frozen=True, slots=True)
class _Paced:
    """As many parts, or runs with events, as there are; each with a client of its own, at the pace of a model."""

    stand: Stand
    serving: Serving
    rows: Rows
    what: str
    count: int

    async def parts(self) -> None:
        prefix = self.stand.prefix()
        await self.serving.do("parts", prefix=prefix, count=self.count)
        await self.stand.settle("parts")

        async def write(seconds: float) -> int:
            return int((await self.serving.do("write", prefix=prefix, rate=RATE, seconds=seconds))["written"])

        async with followed(self.serving.port, prefix, self.count, clients=self.count) as clients:
            await self._turn(OURS, clients, write)

    async def events(self) -> None:
        prefix, count, rate = self.stand.prefix(), self.count, RATE * self.count
        await self.serving.do("runs", prefix=prefix, count=count)
        await self.stand.settle("parts")

        async def append(seconds: float) -> int:
            found = await self.serving.do("rate", prefix=prefix, runs=count, rate=rate, seconds=seconds)
            return int(found["appended"])

        async with crowd(self.serving.port, clients=count, runs=count, prefix=prefix, after=1) as clients:
            await self._turn(EVENTS, clients, append)

    async def _turn(self, name: str, clients: Crowd, load: Callable[[float], Awaitable[int]]) -> None:
        server = await server_pid(self.stand.dsn)
        await clients.expect(await load(0.5))
        await clients.reset()
        before, server_before = (await self.serving.do("stats"))["cpu_s"], cpu_s(server)
        sent = await load(self.stand.seconds)
        found = await clients.expect(sent)
        spent, server_spent = (await self.serving.do("stats"))["cpu_s"] - before, cpu_s(server) - server_before
        figures = {
            "p50 ms": found["p50_ms"],
            "p99 ms": found["p99_ms"],
            "CPU us": spent / sent * 1e6,
            "CPU with PostgreSQL us": (spent + server_spent) / sent * 1e6,
            "missing or wrong": sent - found["deliveries"] + found["wrong"],
            "load generator, part of a core": found["cpu_s"] / found["s"],
        }
        for figure, value in figures.items():
            self.rows.setdefault(f"{self.what}, {figure}", {})[name] = value


async def _one_to_many(stand: Stand, serving: Serving, rows: Rows, *, clients: int) -> None:
    """One part, and the events of one run, one commit at a time to many clients."""
    row = rows.setdefault(f"1 part to {clients} clients, a commit for each chunk, deliveries/s", {})
    part, run = stand.prefix(), stand.prefix()
    await serving.do("parts", prefix=part, count=1)
    await serving.do("runs", prefix=run, count=1)

    async def write(count: int) -> None:
        await serving.do("write_one", prefix=part, chunks=count)

    async def append(count: int) -> None:
        await serving.do("count", prefix=run, runs=1, callers=1, events=count)

    async with followed(serving.port, part, 1, clients=clients) as crowd_:
        row[OURS] = await _as_fast_as_it_goes(stand, crowd_, write, clients=clients)
    async with crowd(serving.port, clients=clients, runs=1, prefix=run, after=1) as crowd_:
        row[EVENTS] = await _as_fast_as_it_goes(stand, crowd_, append, clients=clients)


async def _as_fast_as_it_goes(
    stand: Stand, crowd_: Crowd, load: Callable[[int], Awaitable[None]], *, clients: int
) -> float:
    """Deliveries a second, of as many as fill the time."""
    count, speed = FEWEST, 0.0
    for _ in range(3):
        await crowd_.reset()
        await load(count)
        found = await crowd_.expect(count * clients)
        if found["deliveries"] != count * clients or found["wrong"]:
            raise SystemExit(f"{count * clients} deliveries were due: {found}")
        speed = found["deliveries"] / found["s"]
        if found["s"] > stand.seconds:
            break
        count = max(FEWEST, round(speed * stand.seconds / clients))
    return speed


async def _beside_peers(stand: Stand, rows: Rows, size: Size) -> None:
    absent = missing()
    one, many = f"1 part to {size.clients} clients", f"{size.parts} parts to a client each"
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runwire-bench-parts-")))
        serving = await stack.enter_async_context(stand.serving("parts", part_linger_ms=WINDOW_MS))
        servers: dict[str, ChunkServer] = {OURS: Ours(serving), HTTP: OverHttp(serving)}
        for peer in PEERS:
            if peer.name not in absent:
                own = folder / peer.name.replace(" ", "-").lower()
                own.mkdir()
                servers[peer.name] = other(peer.name, await stack.enter_async_context(peer.start(own, stand.dsn)))
        for name, server in servers.items():
            await stand.settle("parts")
            async with server.streams(stand.prefix(), 1, clients=size.clients) as streams:
                found = await streams.turn(rate=RATE, seconds=stand.seconds)
                for figure, value in (("p50 ms", found["p50_ms"]), ("p99 ms", found["p99_ms"])):
                    rows.setdefault(f"{one}, {RATE} chunks/s, {figure}", {})[name] = value
                speed = await streams.flat_out(seconds=stand.seconds)
                rows.setdefault(f"{one}, as fast as it is written, deliveries/s", {})[name] = speed
            async with server.streams(stand.prefix(), size.parts, clients=size.parts) as streams:
                speed = await streams.flat_out(seconds=stand.seconds)
                rows.setdefault(f"{many}, as fast as they are written, deliveries/s", {})[name] = speed
