"""From the append call to the bus, and to the bytes at a client, when each part is a process of its own.

Appends happen in this process; `runwire serve --role publisher` and `--role api` are two others. The bus is heard from
here, as any other process would hear it; clients are the load generator.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from benchmarks.processes import found, free_port, listening, system_program, tied
from benchmarks.programs import crowd
from benchmarks.serving import MAKE_RUNS, stamped
from benchmarks.stand import Stand
from runwire.append import EventLog
from runwire.bus import BusReader, Published
from runwire.bus.postgres import PostgresBusReader
from runwire.db import Database
from runwire.db.notify import RUNS_DIRTY, Notifier
from runwire.model.event import Source
from runwire.settings import Settings
from runwire.telemetry.metrics import Metrics

NAME = "between-processes"
TITLE = "Append call to the bus and to bytes at a client, 100 runs, a process each for appends, publisher and API"
RUNS = 100
RATES = (200, 2000)
DATABASE = "between_processes"

Rows = dict[str, dict[str, float]]


def missing() -> str | None:
    """A sentence about the program that the measurement over NATS lacks, or None."""
    try:
        import nats  # noqa: F401, PLC0415  # an extra
    except ImportError:
        return "the NATS client is not installed: pip install 'runwire[nats]'"
    return system_program("nats-server", package="nats-server")


def notes() -> list[str]:
    why = missing()
    return [] if why is None else [f"NATS: {why}."]


async def measure(stand: Stand) -> Rows:
    rows: Rows = {}
    for bus in ("postgres",) if missing() else ("postgres", "nats"):
        async with _deployed(stand, bus) as (dsn, url, port):
            for rate in RATES:
                rows[f"{bus}, {rate} events/s"] = await _at(stand, dsn=dsn, url=url, port=port, rate=rate)
    return rows


@asynccontextmanager
async def _deployed(stand: Stand, bus: str) -> AsyncIterator[tuple[str, str, int]]:
    """The DSN, the bus, and the port of the API."""
    dsn = await stand.database(DATABASE)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runwire-bench-roles-")))
        url = bus
        if bus == "nats":
            port = free_port()
            await stack.enter_async_context(
                listening(port, found("nats-server"), "-a", "127.0.0.1", "-p", str(port), log=folder / "nats.log")
            )
            url = f"nats://127.0.0.1:{port}"
        await stack.enter_async_context(_role("publisher", dsn=dsn, bus=url))
        yield dsn, url, await stack.enter_async_context(_role("api", dsn=dsn, bus=url))


@asynccontextmanager
async def _role(role: str, *, dsn: str, bus: str) -> AsyncIterator[int]:
    """The port of a process with this role."""
    settings = (f"RUNWIRE_DATABASE_URL={dsn}", f"RUNWIRE_BUS={bus}", "RUNWIRE_LOG_LEVEL=info")
    command = ("-m", "runwire", "serve", "--role", role, "--port", "0", "--admin-port", "0")
    process = await asyncio.create_subprocess_exec(
        *tied("env", *settings, sys.executable, *command), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        if b"server_started" not in line:
            raise SystemExit(f"{role} did not start: {line.decode()}")
        rest = asyncio.create_task(process.stdout.read())  # so that its log never waits for us
        yield int(json.loads(line).get("port") or 0)
    finally:
        process.terminate()
        await process.wait()
    await rest


async def _at(stand: Stand, *, dsn: str, url: str, port: int, rate: int) -> dict[str, float]:
    prefix = stand.prefix()
    run_ids = [f"{prefix}-{n}" for n in range(RUNS)]
    called: list[list[float]] = [[] for _ in run_ids]
    nth = {run_id: n for n, run_id in enumerate(run_ids)}
    lags: list[float] = []

    def heard(message: Published) -> None:
        now = time.perf_counter()
        # seq 1 was there before; a run's appends are made in order, so its seqs are those of the calls.
        lags.extend([now - at for at in called[nth[message.run_id]][message.first_seq - 2 : message.last_seq - 1]])

    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database(dsn))
        await database.execute(MAKE_RUNS, prefix, RUNS, 1)
        notifier = Notifier(database.session("notify"))
        await stack.enter_async_context(_running(notifier.run()))
        log = await stack.enter_async_context(
            EventLog(database, metrics=Metrics({}), on_committed=lambda ids: notifier.send(RUNS_DIRTY, ids))
        )
        bus = await stack.enter_async_context(_bus(url, dsn))
        for run_id in run_ids:
            await stack.enter_async_context(bus.subscribe(run_id, heard))
        clients = await stack.enter_async_context(crowd(port, clients=RUNS, runs=RUNS, prefix=prefix, after=1))
        await clients.expect(await _append(log, run_ids, called, rate=rate, seconds=1.0))
        await clients.reset()
        lags.clear()
        await stand.settle(DATABASE)
        sent = await _append(log, run_ids, called, rate=rate, seconds=stand.seconds)
        came = await clients.expect(sent)
        until = time.monotonic() + 10
        while len(lags) < sent and time.monotonic() < until:
            await asyncio.sleep(0.01)
    cuts = statistics.quantiles(lags, n=100)
    return {
        "to the bus p50 ms": cuts[49] * 1000,
        "p99 ms": cuts[98] * 1000,
        "to a client p50 ms": came["p50_ms"],
        "client p99 ms": came["p99_ms"],
        "missing": sent - came["deliveries"],
    }


async def _append(log: EventLog, run_ids: list[str], called: list[list[float]], *, rate: int, seconds: float) -> int:
    waiters: set[asyncio.Future[object]] = set()
    began, sent = time.perf_counter(), 0
    while (now := time.perf_counter() - began) < seconds:
        while sent < now * rate:
            n = sent % len(run_ids)
            called[n].append(time.perf_counter())
            waiters.add(log.submit(run_ids[n], stamped(), fence=1, source=Source.API))  # type: ignore[arg-type]
            sent += 1
        await asyncio.sleep(0.001)
    await asyncio.gather(*waiters)
    return sent


@asynccontextmanager
async def _bus(url: str, dsn: str) -> AsyncIterator[BusReader]:
    if url == "postgres":
        reader = PostgresBusReader(dsn, on_connected=lambda: None)
        async with _running(reader.listener.run()):
            yield reader
        return
    from runwire.bus.nats import NatsBusReader, NatsOptions  # noqa: PLC0415  # an extra

    options = NatsOptions.of(Settings(database_url=dsn, bus=url))
    nats = NatsBusReader(options, on_missed=lambda: None, name="runwire benchmark")
    async with _running(nats.link.run()):
        await nats.link.connected.wait()
        yield nats


@asynccontextmanager
async def _running(work: object) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)  # type: ignore[arg-type]
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
