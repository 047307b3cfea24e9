"""A thousand clients that take nothing: what they cost the process that serves them, and how it is rid of them."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from crash.fleet import Member, fleet_of
from waiting import grows_to

CLIENTS = 1000
EVENTS = 80_000
"""About 9 MB: more than the kernel takes for a connection that nobody reads from."""
SLOW_S = 10
KIB_PER_CLIENT = 192
"""Of the 256 KiB a client may have unsent: one slice of 128 KiB, and what the connection itself takes."""
STREAM = "/api/agents/runs/long/stream"

LONG_RUN = """
WITH run AS (
    INSERT INTO runs (run_id, agent, state, last_seq, started_at, finished_at, request_hash, input)
    VALUES ('long', 'golden', 'finished', $1, now(), now(), '', '{}') RETURNING run_id, run_day
)
INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source, fn)
SELECT run_day, run_id, seq, (extract(epoch FROM now()) * 1000000)::bigint,
       (CASE seq WHEN 1 THEN 'RunStarted' WHEN $1 THEN 'RunFinished' ELSE 'DebugTrace' END)::event_type,
       'worker', CASE WHEN seq > 1 AND seq < $1 THEN 'a.step' END
FROM run, generate_series(1, $1::bigint) AS seq
"""


@pytest.mark.crash
@pytest.mark.timeout(600)  # a loaded machine takes in ten of them a second
async def test_a_thousand_stalled_clients_cost_bounded_memory_and_are_closed_while_others_are_served(
    database: str, tmp_path: Path
) -> None:
    await _store_long_run(database)
    async with fleet_of(
        ["api"], database=database, logs=tmp_path, environment={"RUNWIRE_SSE_SLOW_S": str(SLOW_S)}
    ) as fleet:
        member = fleet.members[0]
        await _check_whole_stream(member)
        before_kib = member.memory_kib
        with _stalled_clients(member, CLIENTS):
            await grows_to(CLIENTS, lambda: member.metric("runwire_sse_connects_total"))
            await _check_whole_stream(member)
            assert member.memory_kib - before_kib < CLIENTS * KIB_PER_CLIENT
            slow = 'runwire_sse_disconnects_total{reason="slow"}'
            await grows_to(CLIENTS, lambda: member.metric(slow))
            await _check_whole_stream(member)
        assert fleet.errors() == []


async def _store_long_run(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(LONG_RUN.replace("$1", str(EVENTS)))
    finally:
        await connection.close()


@contextmanager
def _stalled_clients(member: Member, count: int) -> Iterator[None]:
    """Connections that ask for the stream and read nothing of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(count + 500, hard)), hard))
    with ExitStack() as held:
        for _ in range(count):
            client = held.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", member.port))
            client.sendall(f"GET {STREAM} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        yield


async def _check_whole_stream(member: Member) -> None:
    """A client that reads gets all events."""
    async with httpx.AsyncClient(base_url=member.url, timeout=60) as http:
        body = (await http.get(STREAM)).text
    assert body.count("\ndata: {") == EVENTS + 1
