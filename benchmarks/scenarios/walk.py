"""Runs of the agent `golden`, five trivial nodes: from the start call to its end at a client, beside what else walks.

runwire is measured from the POST to the frame `event: end` of the run's SSE stream, a connection for each. A peer is
measured from its call to its return, which is less: nobody watches its run. Each measurement is made on all in turn.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import asyncpg

from benchmarks.databases import empty_database
from benchmarks.peers.walks import WALK_PEERS, Walked, Walker
from benchmarks.programs import conversation, program
from benchmarks.stand import Serving, Stand

NAME = "walk"
TITLE = "Runs of five trivial durable steps, from the start call to the end of the run"
OURS = "runwire"
MANY = 32
EVENTS = 13
TURNS = 4
"""Of single runs: each system has its turn several times, so that all meet the same moods of the machine."""
COMMITS = "one at a time, commits of PostgreSQL a run"
FLUSHED_S = 1.2
"""How long PostgreSQL takes, at most, to count what its connections have committed."""
_COMMITS = "SELECT pg_stat_get_db_xact_commit(oid) FROM pg_database WHERE datname = $1"

Rows = dict[str, dict[str, float]]


def missing() -> dict[str, str]:
    """The missing programs, by the name of the peer, in a sentence each. Installs what it can."""
    return {peer.name: why for peer in WALK_PEERS if (why := peer.install())}


def notes() -> list[str]:
    """How each is run, or why it is not."""
    absent = missing()
    ours = (
        f"{OURS}: one process with every role, metrics on, PostgreSQL with fsync and synchronous_commit on. Clients "
        "are one program in C: a POST on a kept connection, then a new connection for the stream, read to `event: "
        "end`; 13 events each, or the benchmark ends"
    )
    every = (
        "CPU is of the processes that walk, PostgreSQL's is not in it; Restate's includes its server, which is its log"
    )
    return [f"{ours}.", *(f"{peer.name}: {absent.get(peer.name, peer.settings)}." for peer in WALK_PEERS), f"{every}."]


@dataclass(slots=True)
class Ours:
    serving: Serving
    prefixes: int = 0
    first_ms: float = 0.0
    """p50 from the start call to the first event at the client, of the last turn."""
    generator: float = 0.0
    """The part of a core that the clients took in it."""

    async def walk(self, *, at_once: int, seconds: float) -> Walked:
        self.prefixes += 1
        prefix = f"walk-{os.getpid()}-{self.prefixes}"
        arguments = ["-c", str(at_once), "-t", str(seconds), "-x", prefix, "-e", str(EVENTS)]
        before = (await self.serving.do("stats"))["cpu_s"]
        async with conversation("walker", program("walker"), "127.0.0.1", str(self.serving.port), *arguments) as talk:
            found = await talk.answer()
        cpu_s = (await self.serving.do("stats"))["cpu_s"] - before
        self.first_ms = found["first_p50_ms"]
        self.generator = found["cpu_s"] / found["s"]
        return Walked(found["runs"], found["s"], found["p50_ms"], found["p99_ms"], cpu_s)


async def measure(stand: Stand) -> Rows:
    rows: Rows = {}
    async with _all(stand) as walkers:
        ours = walkers[OURS][0]
        assert isinstance(ours, Ours)
        for walker, _ in walkers.values():  # connections, plans and caches
            await walker.walk(at_once=MANY, seconds=1)
        alone: dict[str, list[Walked]] = {name: [] for name in walkers}
        commits: dict[str, float] = {}
        first_ms: list[float] = []
        for _ in range(TURNS):
            for name, (walker, dsn) in walkers.items():
                await _settled(dsn)
                found, commits[name] = await _counted(walker, dsn, at_once=1, seconds=stand.seconds / 2)
                alone[name].append(found)
            first_ms.append(ours.first_ms)
        for name, turns in alone.items():
            rows.setdefault("one at a time, p50 ms", {})[name] = median(turn.p50_ms for turn in turns)
            rows.setdefault("one at a time, p99 ms", {})[name] = median(turn.p99_ms for turn in turns)
            rows.setdefault(COMMITS, {})[name] = commits[name]
        rows["one at a time, POST to the first event at the client, p50 ms"] = {OURS: median(first_ms)}
        for name, (walker, dsn) in walkers.items():
            await _settled(dsn)
            found = await walker.walk(at_once=MANY, seconds=stand.seconds)
            rows.setdefault(f"{MANY} at once, runs/s", {})[name] = found.runs / found.s
            rows.setdefault(f"{MANY} at once, p50 ms", {})[name] = found.p50_ms
            rows.setdefault(f"{MANY} at once, p99 ms", {})[name] = found.p99_ms
            rows.setdefault(f"{MANY} at once, CPU of a run, ms", {})[name] = found.cpu_s / found.runs * 1000
        rows[f"{MANY} at once, load generator, part of a core"] = {OURS: ours.generator}
    return rows


def compare(rows: Rows) -> None:
    """How many times as good as each peer runwire is: more of what is a rate, less of what is a time."""
    for what, row in rows.items():
        if what == COMMITS:
            continue
        for peer in WALK_PEERS:
            if theirs := row.get(peer.name):
                row[f"x {peer.name}"] = row[OURS] / theirs if what.endswith("/s") else theirs / row[OURS]


@asynccontextmanager
async def _all(stand: Stand) -> AsyncIterator[dict[str, tuple[Walker, str]]]:
    """Everything that is there, under way, with the database it walks on."""
    absent = missing()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runwire-bench-walk-")))
        serving = await stack.enter_async_context(stand.serving("walk"))
        walkers: dict[str, tuple[Walker, str]] = {OURS: (Ours(serving), await stand.database("walk"))}
        for peer in WALK_PEERS:
            if peer.name in absent:
                continue
            own = folder / peer.name.lower()
            own.mkdir()
            dsn = await empty_database(stand.dsn, f"walk_{own.name}")
            walkers[peer.name] = (await stack.enter_async_context(peer.start(own, dsn)), dsn)
        yield walkers


async def _settled(dsn: str) -> None:
    """Flushes earlier writes to the disk, so that they do not disturb a measurement."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def _counted(walker: Walker, dsn: str, *, at_once: int, seconds: float) -> tuple[Walked, float]:
    """With what was committed to its database meanwhile, a run."""
    before = await _commits(dsn)
    found = await walker.walk(at_once=at_once, seconds=seconds)
    await asyncio.sleep(FLUSHED_S)
    return found, (await _commits(dsn) - before) / found.runs


async def _commits(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        found: int = await connection.fetchval(_COMMITS, dsn.partition("?")[0].rpartition("/")[2])
        return found
    finally:
        await connection.close()
