"""Clients that ask and hang up before the answer: they cost a statement each, and others nothing to speak of."""

from __future__ import annotations

import asyncio
import socket
import statistics
import struct
import time
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from crash.fleet import fleet_of

SECONDS = 5.0
ABORTS_PER_S = 800
LINGER_NONE = struct.pack("ii", 1, 0)
"""Closing sends RST, as the kernel of a client that was killed does."""
OTHERS_P50_S = 0.15
"""Five times what it is alone on two slow cores, and a third of what it was when each of these cost a connection."""


@pytest.mark.crash
async def test_clients_that_hang_up_cost_no_connections_and_leave_others_quick(database: str, tmp_path: Path) -> None:
    async with fleet_of(["api"], database=database, logs=tmp_path) as fleet:
        member = fleet.members[0]
        async with httpx.AsyncClient(base_url=member.url, timeout=30) as http:
            for _ in range(20):
                assert (await http.post("/api/agents/runs", json={})).status_code == 202
            alone = await _asked(http, seconds=1.0)
            before = await _sessions(database)
            address = urlsplit(member.url)
            aborting = asyncio.create_task(_abort(str(address.hostname), int(address.port or 0)))
            beside = await _asked(http, seconds=SECONDS)
            aborted = await aborting
        opened = await _sessions(database) - before
        p50_ms = [statistics.median(took) * 1000 for took in (alone, beside)]
        figures = f"{aborted / SECONDS:.0f} aborted a second; others' p50 {p50_ms[0]:.1f} -> {p50_ms[1]:.1f} ms"
        print(f"{figures}; {opened} connections to PostgreSQL")  # noqa: T201  # for who measures
        assert aborted > 100 * SECONDS
        assert opened <= 30, "a pool's worth, and what it gave up while nobody asked"
        assert statistics.median(beside) < OTHERS_P50_S


async def _asked(http: httpx.AsyncClient, *, seconds: float) -> list[float]:
    """How long each of the reads took that one client made, one after the other."""
    took: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        assert (await http.get("/api/agents/runs")).status_code == 200
        took.append(time.monotonic() - began)
    return took


async def _abort(host: str, port: int) -> int:
    """How many requests were sent and not waited for."""
    loop = asyncio.get_running_loop()
    request = f"GET /api/agents/runs?limit=50 HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
    aborted = 0
    began = time.monotonic()

    async def one() -> None:
        nonlocal aborted
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
            await loop.sock_connect(client, (host, port))
            await loop.sock_sendall(client, request)
            await asyncio.sleep(0.002)
        aborted += 1

    async with asyncio.TaskGroup() as group:
        sent = 0
        while (passed := time.monotonic() - began) < SECONDS:
            while sent < passed * ABORTS_PER_S:
                sent += 1
                group.create_task(one())
            await asyncio.sleep(0.005)
    return aborted


async def _sessions(database: str) -> int:
    """How many connections the database has had."""
    connection = await asyncpg.connect(database)
    try:
        await asyncio.sleep(1.1)  # the server counts them within a second
        counted: int = await connection.fetchval(
            "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"
        )
        return counted
    finally:
        await connection.close()
