"""Bytes of one stream of 100 runs, beside 100 streams of one run: while they happen one after the other, and stored."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from benchmarks.stand import Serving, Stand

NAME = "many-runs"
TITLE = "Bytes of 100 runs with 13 events each, on one connection and on 100"
RUNS: Final = 100
EVENTS: Final = 13
PATIENCE_S: Final = 60
LONG: Final = "0197a5c2-7c3e-7d51-9a4e-2f5c8a1b7d"
"""Makes the ids of the runs as long as those that the service mints."""

Rows = dict[str, dict[str, float]]


class _Reader:
    """One client that counts events, and the bytes after the head of its response."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.events = 0
        self.bytes = 0

    @classmethod
    async def connected(cls, port: int, path: str) -> _Reader:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(head.decode())
        return cls(reader, writer)

    async def until(self, events: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.events < events:
                line = await self._reader.readline()
                self.bytes += len(line)
                self.events += line.startswith(b"data: {")
            self.bytes += len(await self._reader.readline())  # that ends the block

    def close(self) -> None:
        self._writer.transport.abort()


async def measure(stand: Stand) -> Rows:
    rows: Rows = {}
    async with stand.serving("many_runs") as serving:
        prefix = f"{stand.prefix()}-{LONG}"
        run_ids = [f"{prefix}-{n}" for n in range(RUNS)]
        await serving.do("runs", prefix=prefix, count=RUNS)
        rows["live, one event of each run in turn"] = await _bytes(serving, run_ids, append_to=prefix)
        rows["stored"] = await _bytes(serving, run_ids)
    return rows


def compare(rows: Rows) -> None:
    for row in rows.values():
        row["times the bytes"] = row["one connection"] / row["100 connections"]


async def _bytes(serving: Serving, run_ids: Sequence[str], *, append_to: str | None = None) -> dict[str, float]:
    paths = [f"/api/agents/runs/{run_id}/stream" for run_id in run_ids]
    together = "/api/agents/stream?" + "&".join(f"run={run_id}" for run_id in run_ids)
    readers = [await _Reader.connected(serving.port, path) for path in (together, *paths)]
    try:
        if append_to is not None:
            for _ in range(EVENTS - 1):
                await serving.do("count", prefix=append_to, runs=RUNS, callers=1, events=RUNS)
        one, *many = readers
        await asyncio.gather(one.until(RUNS * EVENTS), *(reader.until(EVENTS) for reader in many))
    finally:
        for reader in readers:
            reader.close()
    return {"one connection": one.bytes, "100 connections": sum(reader.bytes for reader in many)}
