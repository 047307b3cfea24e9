"""A whole runwire process to be measured: `serve` with every role, and a line of control for what happens in it.

python -m benchmarks.serving DSN          answers {"port": ...}, then a line of JSON for every command:

{"do": "runs", "prefix": ..., "count": ..., "events": n}    makes open runs with n events each, published
{"do": "rate", "prefix": ..., "runs": ..., "rate": ..., "seconds": ...}     appends at a steady rate, an event a call
{"do": "closed", "prefix": ..., "runs": ..., "callers": ..., "seconds": ...}    appends as fast as it goes
{"do": "count", "prefix": ..., "runs": ..., "callers": ..., "events": ...}      the same, until so many are appended
{"do": "emit", "prefix": ..., "runs": ..., "events": ..., "joined": ...}    puts events on the bus, not in the log
{"do": "parts", "prefix": ..., "count": n}      makes open runs with an open part each
{"do": "write", "prefix": ..., "rate": ..., "seconds": ...}     writes chunks at a steady rate to each
{"do": "write_one", "prefix": ..., "chunks": ...}       writes to the first part, with a commit for each chunk
{"do": "write_many", "prefix": ..., "seconds": ..., "ahead": n}     writes to all, each at most n ahead of the commits
{"do": "stats"}         memory, CPU time, and the pages read for streams
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.chunks import CHUNK_BYTES, chunk
from runwire.append import EventLog
from runwire.assembly import Assembly
from runwire.bus import Bus, Published
from runwire.cli.serve import spare_garbage_collector
from runwire.content.part_writer import OpenPart, PartWriter
from runwire.db import Database
from runwire.model.event import EventType, NewEvent, Source, StoredEvent
from runwire.orchestrate import ExternalParts
from runwire.settings import Settings
from runwire.stream import LogReader, Streams
from runwire.telemetry.logs import configure_logging

PUBLISHED_AT_ONCE = 200
"""As by the publisher."""
MAKE_RUNS = """
WITH made AS (
    INSERT INTO runs (run_id, agent, state, external, last_seq, fence, lease_owner, lease_until, lease_s, started_at,
                      request_hash, input)
    SELECT $1 || '-' || n, 'bench', 'started', true, $3, 1, 'external', now() + interval '1 hour', 3600, now(), '', ''
    FROM generate_series(0, $2::int - 1) AS n
    RETURNING run_id, run_day
), marked AS (
    INSERT INTO run_outbox (run_id, run_day, next_seq) SELECT run_id, run_day, $3::bigint + 1 FROM made
)
INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source, fn)
SELECT run_day, run_id, k, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
       (CASE WHEN k = 1 THEN 'RunStarted' ELSE 'DebugTrace' END)::event_type, 'api', CASE WHEN k > 1 THEN 'a.b' END
FROM made, generate_series(1, $3::int) AS k
"""


def stamped() -> tuple[NewEvent]:
    """An event that carries when it was appended, by the clock all processes of this machine share."""
    return (NewEvent(EventType.DEBUG_TRACE, fn=f"t.{time.monotonic_ns() // 1000}"),)


class Measured:
    """A hand on what is inside a running process. Its methods are the commands."""

    def __init__(self, process: Assembly) -> None:
        self._log = process.part(EventLog)
        self._bus = process.part(Bus).writer
        self._streams = process.part(Streams)
        self._parts = process.part(ExternalParts)
        self._writer = process.part(PartWriter)
        self._open: dict[str, list[OpenPart]] = {}
        self._written: dict[OpenPart, int] = defaultdict(int)
        self._dsn = process.database_url
        self._emitted: dict[str, int] = defaultdict(lambda: 1)

    async def runs(self, prefix: str, count: int, events: int = 1) -> dict[str, Any]:
        async with Database(self._dsn) as database:
            await database.execute(MAKE_RUNS, prefix, count, events)
        return {}

    async def rate(self, prefix: str, runs: int, rate: float, seconds: float) -> dict[str, Any]:
        run_ids = [f"{prefix}-{n}" for n in range(runs)]
        waiters: set[asyncio.Future[Any]] = set()
        began = time.perf_counter()
        sent = 0
        while (now := time.perf_counter() - began) < seconds:
            while sent < now * rate:
                waiter = self._log.submit(run_ids[sent % runs], stamped(), fence=1, source=Source.API)
                waiters.add(waiter)
                waiter.add_done_callback(waiters.discard)
                sent += 1
            await asyncio.sleep(0.001)
        if waiters:
            await asyncio.wait(waiters)
        return {"appended": sent}

    async def closed(self, prefix: str, runs: int, callers: int, seconds: float) -> dict[str, Any]:
        run_ids = [f"{prefix}-{n}" for n in range(runs)]
        appended = 0
        until = time.perf_counter() + seconds

        async def call(nth: int) -> None:
            nonlocal appended
            while time.perf_counter() < until:
                await self._log.append(run_ids[nth % runs], stamped(), fence=1, source=Source.API)
                appended += 1
                nth += callers

        began = time.perf_counter()
        cpu = time.process_time()
        await asyncio.gather(*(call(nth) for nth in range(callers)))
        return {"appended": appended, "s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}

    async def count(self, prefix: str, runs: int, callers: int, events: int) -> dict[str, Any]:
        left = iter(range(events))

        async def call() -> None:
            for n in left:
                await self._log.append(f"{prefix}-{n % runs}", stamped(), fence=1, source=Source.API)

        await asyncio.gather(*(call() for _ in range(callers)))
        return {}

    async def emit(self, prefix: str, runs: int, events: int, joined: int) -> dict[str, Any]:
        """Puts events on the bus as if they had been published: measures the stream stage by itself.

        A tick's events are made once for all runs, as the C server makes its bytes once: making them is no part of it.
        """
        run_ids = [f"{prefix}-{n}" for n in range(runs)]
        for _ in range(events // joined):
            ts_us = time.time_ns() // 1000
            first, last = self._emitted[prefix] + 1, self._emitted[prefix] + joined
            self._emitted[prefix] = last
            new = tuple([StoredEvent(seq, ts_us, "DebugTrace", None, "a.b") for seq in range(first, last + 1)])
            for at in range(0, runs, PUBLISHED_AT_ONCE):
                some = run_ids[at : at + PUBLISHED_AT_ONCE]
                await self._bus.publish([Published(run_id, first, last, new) for run_id in some])
                await asyncio.sleep(0)  # and sockets are looked after
            await self._streams.queue_empty()  # a tick is a write to each client
        return {}

    async def parts(self, prefix: str, count: int) -> dict[str, Any]:
        """Run `prefix`-n has one part, number 1."""
        await self.runs(prefix, count)
        slots = asyncio.Semaphore(32)

        async def opened(run_id: str) -> OpenPart:
            async with slots:
                part = await self._parts.open(run_id, "answer", "text/plain", fence=1)
            return self._writer.open(run_id, part.n, name=part.name, attempt=1, part_id=part.part_id, fence=1)

        self._open[prefix] = await asyncio.gather(*(opened(f"{prefix}-{n}") for n in range(count)))
        return {}

    async def write(self, prefix: str, rate: float, seconds: float) -> dict[str, Any]:
        """`rate` is that of each part. The parts take turns, so that their chunks spread over time."""
        parts = self._open[prefix]
        began = time.perf_counter()
        sent = 0
        while (now := time.perf_counter() - began) < seconds:
            while sent < now * rate * len(parts):
                await self._write(parts[sent % len(parts)])
                sent += 1
            await asyncio.sleep(0.001)
        await asyncio.gather(*(part.flush() for part in parts))
        return {"written": sent}

    async def write_one(self, prefix: str, chunks: int) -> dict[str, Any]:
        part = self._open[prefix][0]
        for _ in range(chunks):
            await self._write(part)
            await part.flush()
        return {"written": chunks}

    async def write_many(self, prefix: str, seconds: float, ahead: int) -> dict[str, Any]:
        """A writer for each part."""
        until = time.perf_counter() + seconds

        async def writing(part: OpenPart) -> int:
            written = 0
            while time.perf_counter() < until:
                await self._write(part)
                written += 1
                if len(part.pending) >= ahead * CHUNK_BYTES:
                    await part.flush()
                else:
                    await asyncio.sleep(0)
            await part.flush()
            return written

        return {"written": sum(await asyncio.gather(*map(writing, self._open[prefix])))}

    async def _write(self, part: OpenPart) -> None:
        n = self._written[part]
        self._written[part] = n + 1
        await part.write(chunk(n))


def counted_reads() -> list[int]:
    """How many pages of events streams have read from PostgreSQL, counted from now on."""
    reads = [0]
    read = LogReader.events

    async def events(self: LogReader, *args: Any, **kwargs: Any) -> Any:
        reads[0] += 1
        return await read(self, *args, **kwargs)

    LogReader.events = events  # type: ignore[method-assign]
    return reads


def rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def main(dsn: str) -> None:
    configure_logging("warning", stream=sys.stderr)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError):  # only root may have more than it was given
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, 65_536),) * 2)
    reads = counted_reads()
    settings = Settings(
        port=0, admin_port=0, database_url=dsn, bus="memory", **json.loads(os.environ.get("SETTINGS", "{}"))
    )
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async with Assembly(settings) as process:
        measured = Measured(process)
        spare_garbage_collector()
        print(json.dumps({"port": process.api_port, "admin_port": process.admin_port}), flush=True)
        while line := await commands.readline():
            command = json.loads(line)
            what = command.pop("do")
            if what == "stats":
                found: dict[str, Any] = {"rss": rss_bytes(), "cpu_s": time.process_time(), "pages_read": reads[0]}
            else:
                found = await getattr(measured, what)(**command)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1]))
