"""Measures the duration of a scrape of a busy process, as its scraper sees it, and counts its samples."""

from __future__ import annotations

import asyncio
import statistics
import time

import asyncpg

from benchmarks.many_agents import REFERENCES
from benchmarks.programs import crowd
from benchmarks.stand import Stand

NAME = "scrape"
TITLE = "Scrapes with 1000 streams open and 200 runs active"
STREAMS, RUNS = 1000, 200
SCRAPES = 100
EVENTS_PER_S = 200
ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5"
ACTIVE, OPEN = b'runwire_runs_active{state="started"} ', b"runwire_sse_connections "
PATIENCE_S = 30.0


class Scraper:
    """Asks the admin listener over a connection it keeps, as Prometheus does."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def scrape(self) -> tuple[bytes, float]:
        """The body, and the seconds from the request to its last byte."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        began = time.perf_counter()
        writer.write(f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {ACCEPT}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert " 200 " in head.partition("\r\n")[0], head
        length = next(int(line.split(":")[1]) for line in head.splitlines() if line.startswith("content-length:"))
        body = await reader.readexactly(length)
        return body, time.perf_counter() - began

    async def until(self, prefix: bytes, least: float) -> None:
        """Returns when a sample is so high."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := _value((await self.scrape())[0], prefix)) < least:
            if time.monotonic() > deadline:
                raise SystemExit(f"{prefix.decode()}is {found:g} after {PATIENCE_S:g} s, not {least:g}")
            await asyncio.sleep(0.2)

    async def aclose(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            await self._streams[1].wait_closed()


async def measure(stand: Stand) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for what, settings in (("the agents there are", {}), ("more agents than are named", {"agents": REFERENCES})):
        name, prefix = f"scrape_{len(settings)}", stand.prefix()
        await _forget_runs(await stand.database(name))  # of an earlier round: they would be active, too
        async with stand.serving(name, **settings) as serving:
            await serving.do("runs", prefix=prefix, count=RUNS)
            async with crowd(serving.port, clients=STREAMS, runs=RUNS, prefix=prefix, after=1):
                scraper = Scraper(serving.admin_port)
                await scraper.until(ACTIVE, RUNS)
                await scraper.until(OPEN, STREAMS)
                rows[f"{what}, idle"] = await _scraped(scraper)
                rate = {"prefix": prefix, "runs": RUNS, "rate": EVENTS_PER_S, "seconds": SCRAPES * 0.05 + 0.5}
                load = asyncio.create_task(serving.do("rate", **rate))
                rows[f"{what}, {EVENTS_PER_S * STREAMS // RUNS} deliveries/s"] = await _scraped(scraper)
                await load
                await scraper.aclose()
    return rows


async def _scraped(scraper: Scraper) -> dict[str, float]:
    """Apart from each other, so that none finds the other's work still warm."""
    taken_ms: list[float] = []
    body = b""
    for _ in range(SCRAPES):
        await asyncio.sleep(0.05)
        body, seconds = await scraper.scrape()
        taken_ms.append(seconds * 1000)
    taken_ms.sort()
    return {
        "samples": sum(1 for line in body.splitlines() if line and not line.startswith(b"#")),
        "KiB": len(body) / 1024,
        "p50 ms": statistics.median(taken_ms),
        "p99 ms": taken_ms[int(len(taken_ms) * 0.99) - 1],
        "max ms": taken_ms[-1],
    }


async def _forget_runs(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        if await connection.fetchval("SELECT to_regclass('runs') IS NOT NULL"):
            await connection.execute("TRUNCATE runs, run_events, run_outbox CASCADE")
    finally:
        await connection.close()


def _value(body: bytes, prefix: bytes) -> float:
    return next((float(line.removeprefix(prefix)) for line in body.splitlines() if line.startswith(prefix)), 0.0)
