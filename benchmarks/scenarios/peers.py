"""runwire beside other servers, measured by the same load generator, each measurement on all of them in turn.

Fan-out goes the whole way here, from the append to the socket: the durable ones keep an event before they send it.
A peer that is not installed, and cannot be, is told in the notes; the others are measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from benchmarks.databases import empty_database
from benchmarks.peers import Peer, Started, dbos, durable_streams, nchan, redis_streams
from benchmarks.peers.ours import SETTINGS, Ours
from benchmarks.programs import crowd
from benchmarks.stand import Stand

NAME = "peers"
TITLE = "runwire and its peers: fan-out in deliveries/s, durable appends/s, append call to bytes at a client in ms"
OURS = "runwire"
HTTP = "runwire over HTTP"
PEERS: tuple[Peer, ...] = (nchan.PEER, durable_streams.PEER, redis_streams.PEER, dbos.PEER)
FAN_OUTS = ((1, 1000, 1), (1, 1000, 32), (1, 5000, 1), (1, 5000, 32), (1000, 5000, 32))
"""Runs, clients, and how many appends are under way at once."""
CALLERS = (1, 32, 256)
RUNS = 1000
RATES = (200, 2000)
FEWEST, MOST = 3, 20_000

Rows = dict[str, dict[str, float]]


def missing() -> dict[str, str]:
    """The missing programs, by the name of the peer, in a sentence each. Installs what it can."""
    return {peer.name: why for peer in PEERS if (why := peer.install())}


def notes() -> list[str]:
    """How each is run, or why it is not."""
    absent = missing()
    return [f"{OURS}: {SETTINGS}.", *(f"{peer.name}: {absent.get(peer.name, peer.settings)}." for peer in PEERS)]


async def measure(stand: Stand) -> Rows:
    rows: Rows = {}
    async with _all(stand) as servers:
        for runs, clients, callers in FAN_OUTS:
            row = rows.setdefault(_fan_out_name(runs, clients, callers), {})
            for name, server in servers.items():
                row[name] = await _fan_out(stand, server, runs=runs, clients=clients, callers=callers)
        await _appends(stand, servers, rows)
        for rate in RATES:
            for name, server in servers.items():
                for figure, value in (await _end_to_end(stand, server, rate=rate)).items():
                    rows.setdefault(f"{rate} events/s to 100 clients, {figure}", {})[name] = value
    return rows


def compare(rows: Rows) -> None:
    """How many times as good as each peer runwire is: more of what is a rate, less of what is a time."""
    for what, row in rows.items():
        for peer in PEERS:
            theirs = row.get(peer.name)
            if theirs and not what.endswith("missing"):
                ratio = theirs / row[OURS] if what.endswith("ms") else row[OURS] / theirs
                row[f"x {peer.name}"] = ratio


def _fan_out_name(runs: int, clients: int, callers: int) -> str:
    at_once = "one append at a time" if callers == 1 else f"{callers} at a time"
    return f"{runs} run{'s' if runs > 1 else ''} x {clients // runs} clients, {at_once}"


@asynccontextmanager
async def _all(stand: Stand) -> AsyncIterator[dict[str, Started]]:
    """Every server that is there, under way, empty."""
    absent = missing()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runwire-bench-peers-")))
        serving = await stack.enter_async_context(stand.serving("peers"))
        servers: dict[str, Started] = {OURS: Ours(serving, await stand.database("peers"))}
        for peer in PEERS:
            if peer.name in absent:
                continue
            own = folder / peer.name.replace(" ", "-").lower()
            own.mkdir()
            dsn = await empty_database(stand.dsn, f"peer_{own.name}")
            servers[peer.name] = await stack.enter_async_context(peer.start(own, dsn))
        yield servers


async def _fan_out(stand: Stand, server: Started, *, runs: int, clients: int, callers: int) -> float:
    """Deliveries a second. First turns say how many events fill the time; the first is enough where it fills it."""
    prefix = stand.prefix()
    await server.runs(prefix, runs)
    per_event = clients // runs
    async with crowd(
        server.port, clients=clients, runs=runs, prefix=prefix, path=server.path, mark=server.mark
    ) as listening:

        async def turn(events: int) -> tuple[float, float]:
            await listening.reset()
            await server.count(prefix, runs, callers=callers, events=events)
            found = await listening.expect(events * per_event)
            if found["deliveries"] != events * per_event:
                raise SystemExit(f"{server}: {found['deliveries']} of {events * per_event} deliveries came: {found}")
            return float(found["deliveries"] / found["s"]), float(found["s"])

        speed, took = await turn(max(runs, FEWEST))
        for _ in range(2):
            if took > stand.seconds:
                break
            speed, took = await turn(min(MOST, max(runs, FEWEST, round(speed * stand.seconds / per_event))))
        return speed


async def _appends(stand: Stand, servers: dict[str, Started], rows: Rows) -> None:
    prefix = stand.prefix()
    for server in servers.values():
        await server.runs(prefix, RUNS)
    ways: dict[str, Callable[..., object]] = {name: server.throughput for name, server in servers.items()}
    ours = servers[OURS]
    assert isinstance(ours, Ours)
    ways[HTTP] = ours.throughput_over_http
    for callers in CALLERS:
        for name, way in ways.items():
            await stand.settle("peers")
            found = await way(prefix, RUNS, callers=callers, seconds=stand.seconds)  # type: ignore[misc]
            if found is None:
                continue
            many = f"{callers} caller{'s' if callers > 1 else ''}"
            rows.setdefault(f"durable appends/s, {many}", {})[name] = found.per_s
            rows.setdefault(f"durable append, {many}, p50 ms", {})[name] = found.p50_ms
            rows.setdefault(f"durable append, {many}, p99 ms", {})[name] = found.p99_ms


async def _end_to_end(stand: Stand, server: Started, *, rate: int) -> dict[str, float]:
    """A client each of 100 runs."""
    prefix = stand.prefix()
    await server.runs(prefix, 100)
    async with crowd(
        server.port, clients=100, runs=100, prefix=prefix, path=server.path, mark=server.mark
    ) as listening:
        warm = await server.rate(prefix, 100, rate=rate, seconds=0.5)
        await listening.expect(warm)
        await listening.reset()
        sent = await server.rate(prefix, 100, rate=rate, seconds=stand.seconds)
        found = await listening.expect(sent)
    return {"p50 ms": found["p50_ms"], "p99 ms": found["p99_ms"], "missing": sent - found["deliveries"]}
