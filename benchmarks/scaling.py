"""`make bench-scaling`: what batches, events and deliveries cost each part of a deployment, and what that predicts.

Costs are fitted to some loads and held against another. They are CPU time, which says much the same whoever else uses
the machine; how many events share a batch depends on that, so batches are counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.in_process import make_runs
from benchmarks.processes import free_port
from runwire.append import EventLog
from runwire.db import Database
from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres
from runwire.db.migrate import migrate
from runwire.db.notify import RUNS_DIRTY, Notifier
from runwire.model.event import Source, debug_trace
from runwire.telemetry.logs import configure_logging
from runwire.telemetry.metrics import Metrics

RUNS = 100
FITTED_TO = ((200, 0), (1000, 0), (4000, 0), (200, 300), (1000, 300), (1000, 1000), (4000, 100), (4000, 500))
"""Events a second, and streams."""
HELD_AGAINST = (2000, 300)
HZ = os.sysconf("SC_CLK_TCK")
_EVENTS = (debug_trace("a.b"),)


@dataclass(frozen=True, slots=True)
class Point:
    """A load, and the CPU seconds it took each part in `seconds`."""

    rate: int
    streams: int
    seconds: float
    events: int
    deliveries: int
    batches: int
    cpu_s: dict[str, float]


def fitted(points: Sequence[Point], part: str) -> tuple[float, ...]:
    """Microseconds of a part's CPU, by least squares: per second, batch and event; of the API per batch, event and
    delivery.
    """
    rows = [_features(p, part) for p in points]
    values = [p.cpu_s[part] * 1e6 for p in points]
    size = len(rows[0])
    system = [[sum(r[i] * r[j] for r in rows) for j in range(size)] for i in range(size)]
    right = [sum(r[i] * v for r, v in zip(rows, values, strict=True)) for i in range(size)]
    for i in range(size):  # Gauss: the system is small and positive definite
        for j in range(i + 1, size):
            factor = system[j][i] / system[i][i]
            system[j] = [below - factor * above for below, above in zip(system[j], system[i], strict=True)]
            right[j] -= factor * right[i]
    solved = [0.0] * size
    for i in reversed(range(size)):
        known = sum(system[i][j] * solved[j] for j in range(i + 1, size))
        solved[i] = (right[i] - known) / system[i][i]
    return tuple(solved)


def _features(p: Point, part: str) -> tuple[float, ...]:
    if part != "api":
        return (p.seconds, p.batches, p.events)
    watched = p.streams > 0
    return (p.batches * watched, p.events * watched, p.deliveries)


def predicted(costs: dict[str, tuple[float, ...]], load: Point) -> dict[str, float]:
    """CPU seconds of each part."""
    return {
        part: sum(us * n for us, n in zip(found, _features(load, part), strict=True)) / 1e6
        for part, found in costs.items()
    }


async def point(
    parts: dict[str, int],
    *,
    publisher_admin: int,
    dsn: str,
    api: int,
    run_ids: list[str],
    rate: int,
    streams: int,
    seconds: float,
) -> Point:
    counts = [0]
    readers = [asyncio.create_task(_read(api, run_ids[n % RUNS], counts)) for n in range(streams)]
    while counts[0] < streams:  # each says something once it is attached
        await asyncio.sleep(0.05)
    async with (
        Database(dsn) as database,
        _hints(database) as notifier,
        EventLog(database, metrics=Metrics({}), on_committed=lambda run_ids: notifier.send(RUNS_DIRTY, run_ids)) as log,
    ):
        await _load(log, run_ids, rate=rate, seconds=1.0)
        await asyncio.sleep(1.0)
        while not await _still(counts):
            pass  # until everybody has all that came before
        before, delivered, batches = _cpu(parts), counts[0], await _batches(publisher_admin)
        began = time.monotonic()
        events = await _load(log, run_ids, rate=rate, seconds=seconds)
        await asyncio.sleep(max(0.0, began + seconds + 1.0 - time.monotonic()))
        after, batches = _cpu(parts), await _batches(publisher_admin) - batches
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    spent = {part: after[part] - before[part] for part in parts}
    return Point(rate, streams, seconds, events, counts[0] - delivered, batches, spent)


async def _still(counts: list[int]) -> bool:
    before = counts[0]
    await asyncio.sleep(0.5)
    return counts[0] == before


async def _batches(port: int) -> int:
    """How many the publisher has published."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    return int(float(text.partition("\nrunwire_publish_batch_events_count ")[2].split()[0]))


@asynccontextmanager
async def _hints(database: Database) -> AsyncIterator[Notifier]:
    notifier = Notifier(database.session("notify"))
    task = asyncio.create_task(notifier.run())
    try:
        yield notifier
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _load(log: EventLog, run_ids: list[str], *, rate: int, seconds: float) -> int:
    began, sent = time.monotonic(), 0
    pending: set[asyncio.Future[object]] = set()
    while (now := time.monotonic() - began) < seconds:
        while sent < now * rate:
            run_id = random.choice(run_ids)  # load, no secret
            task = asyncio.ensure_future(log.append(run_id, _EVENTS, fence=1, source=Source.API))
            pending.add(task)
            task.add_done_callback(pending.discard)
            sent += 1
        await asyncio.sleep(0.002)
    await asyncio.gather(*pending)
    return sent


async def _read(port: int, run_id: str, counts: list[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /api/agents/runs/{run_id}/stream?fromSeq=1 HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
    try:
        await reader.readuntil(b"retry:")
        counts[0] += 1
        while data := await reader.read(262_144):
            counts[0] += data.count(b"data: ")
    finally:
        writer.transport.abort()


def _cpu(parts: dict[str, int]) -> dict[str, float]:
    return {part: sum(_cpu_of(pid) for pid in _family(pid)) for part, pid in parts.items()}


def _cpu_of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])) / HZ


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(int(child) for child in children)]


def _served(role: str, *, port: int, environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], int]:
    """The process, and its admin port."""
    command = [sys.executable, "-m", "runwire", "serve", "--role", role, "--port", str(port), "--admin-port", "0"]
    process = subprocess.Popen(  # our own words
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE
    )
    line = process.stdout.readline() if process.stdout is not None else b""
    if b"server_started" not in line:
        raise RuntimeError(line.decode())
    return process, int(json.loads(line)["admin_port"])


async def measure(*, seconds: float, folder: Path) -> dict[str, Any]:
    nats_program = shutil.which("nats-server", path=f"{os.environ['PATH']}:/usr/sbin")
    if nats_program is None:
        raise SystemExit("nats-server is not installed: scripts/system-programs.sh")
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(EmbeddedPostgres(EmbeddedOptions(folder / "postgres")))
        await migrate(postgres.dsn)
        run_ids = await make_runs(postgres.dsn, RUNS)
        nats_port, port = free_port(), free_port()
        nats = subprocess.Popen(  # returns at once; our own words
            [nats_program, "-a", "127.0.0.1", "-p", str(nats_port)], stderr=subprocess.DEVNULL
        )
        stack.callback(nats.kill)
        environment = {
            "RUNWIRE_DATABASE_URL": postgres.dsn,
            "RUNWIRE_BUS": f"nats://127.0.0.1:{nats_port}",
        }
        publisher, admin = _served("publisher", port=0, environment=environment)
        stack.callback(publisher.kill)
        api, _ = _served("api", port=port, environment=environment)
        stack.callback(api.kill)
        parts = {"postgres": postgres.pid or 0, "nats": nats.pid, "publisher": publisher.pid, "api": api.pid}
        at: dict[str, Any] = {
            "dsn": postgres.dsn,
            "api": port,
            "run_ids": run_ids,
            "seconds": seconds,
            "publisher_admin": admin,
        }
        points = [await point(parts, rate=rate, streams=streams, **at) for rate, streams in FITTED_TO]
        held = await point(parts, rate=HELD_AGAINST[0], streams=HELD_AGAINST[1], **at)
    costs = {part: fitted([p for p in points if part != "api" or p.streams], part) for part in parts}
    return {
        "points": [asdict(p) for p in (*points, held)],
        "us": costs,
        "predicted_s": predicted(costs, held),
        "measured_s": held.cpu_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    configure_logging("warning")
    with tempfile.TemporaryDirectory(prefix="runwire-scaling-") as folder:
        print(json.dumps(asyncio.run(measure(seconds=options.seconds, folder=Path(folder))), indent=1))


if __name__ == "__main__":
    main()
