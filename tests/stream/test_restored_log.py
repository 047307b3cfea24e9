"""A database that is restored to an earlier point behind a live API: nobody is served two histories as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
import httpx

from pipeline import raw
from postgres import with_database
from runwire.assembly import Assembly
from runwire.db import Database
from runwire.stream.epoch import LogEpoch
from test_assembly import settings
from waiting import eventually

RUNS = "/api/agents/runs"


def name_of(dsn: str) -> str:
    return urlsplit(dsn).path.removeprefix("/")


@asynccontextmanager
async def cut_off(dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Inside, nobody is connected to the database, or can be; gives an administrator's connection to another."""
    admin, name = await raw(with_database(dsn, "postgres")), name_of(dsn)
    await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    await eventually(lambda: _ended(admin, name))
    yield admin
    await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    await admin.close()


async def _ended(admin: asyncpg.Connection[asyncpg.Record], name: str) -> bool:
    await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    return not await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname = $1", name)


class Orchestrator:
    """Of one external run, over HTTP, through whatever happens to the database."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.run_id = self.fence = ""

    async def start(self) -> None:
        started = await self._http.post(RUNS, json={"external": True, "leaseSeconds": 600})
        self.run_id, self.fence = started.json()["runId"], str(started.json()["fence"])
        await self._append([{"type": "RunStarted"}])

    async def trace(self, *fns: str) -> int:
        """The seq of the last."""
        return await self._append([{"type": "DebugTrace", "fn": fn} for fn in fns])

    async def _append(self, events: list[dict[str, str]]) -> int:
        async def stored() -> int | None:
            answer = await self._http.post(
                f"{RUNS}/{self.run_id}/events", json={"events": events}, headers={"Runwire-Fence": self.fence}
            )
            return int(answer.json()["lastSeq"]) if answer.status_code == 200 else None

        last: int | None = await eventually(stored, within_s=20)
        assert last is not None
        return last

    async def published(self, seq: int) -> None:
        async def reached() -> bool:
            view = await self._http.get(f"{RUNS}/{self.run_id}")
            return view.status_code == 200 and view.json()["publishedSeq"] >= seq

        await eventually(reached, within_s=20)


async def read_to_end(http: httpx.AsyncClient, run_id: str, *, after: int) -> tuple[str, list[str]]:
    """How a stream ended, and the lines of it."""
    lines: list[str] = []
    async with http.stream("GET", f"{RUNS}/{run_id}/stream?fromSeq={after}", timeout=60) as response:
        if response.status_code != 200:
            return f"{response.status_code} {(await response.aread()).decode()}", lines
        lines.extend([line async for line in response.aiter_lines()])
    return ("over" if "event: end" in lines else "cut"), lines


async def test_streams_end_and_go_on_in_the_restored_history_alone(database: str) -> None:
    """The tail that a client has is past the restored one, at first; then the new history grows beyond it."""
    async with (
        Assembly(settings(database, bus="postgres", agents=())) as service,
        httpx.AsyncClient(base_url=service.url, timeout=20) as http,
    ):
        run = Orchestrator(http)
        await run.start()
        at_backup = await run.trace(*(f"first.{n}" for n in range(5)))
        await run.published(at_backup)
        backup = f"{name_of(database)}_backup"
        async with cut_off(database) as admin:
            await admin.execute(f'CREATE DATABASE "{backup}" TEMPLATE "{name_of(database)}"')
        tail = await run.trace(*(f"lost.{n}" for n in range(5)))
        await run.published(tail)
        watching = asyncio.create_task(read_to_end(http, run.run_id, after=0))
        at_tail = asyncio.create_task(read_to_end(http, run.run_id, after=tail))
        below = asyncio.create_task(read_to_end(http, run.run_id, after=at_backup - 1))
        await eventually(lambda: open_streams(service, 3), within_s=10)
        try:
            async with cut_off(database) as admin:
                await admin.execute(f'ALTER DATABASE "{name_of(database)}" RENAME TO "{backup}_old"')
                await admin.execute(f'ALTER DATABASE "{backup}" RENAME TO "{name_of(database)}"')
            async with asyncio.timeout(20):
                ends = [await stream for stream in (watching, at_tail, below)]
            assert [how for how, _ in ends] == ["cut"] * 3
            assert not any("again" in line for _, lines in ends for line in lines)
            # Past the new tail: the client learns that what it has is not so.
            how, _ = await read_to_end(http, run.run_id, after=tail)
            assert how.startswith("400")
            assert "cursor_past_tail" in how
            assert await run.trace("again.0") == at_backup + 1
            await run.published(at_backup + 1)
            page = (await http.get(f"{RUNS}/{run.run_id}/events?fromSeq={at_backup - 1}")).json()["events"]
            assert [event["fn"] for event in page] == ["first.4", "again.0"]
        finally:
            admin = await raw(with_database(database, "postgres"))
            await admin.execute(f'DROP DATABASE IF EXISTS "{backup}_old" WITH (FORCE)')
            await admin.close()


async def open_streams(service: Assembly, number: int) -> bool:
    async with httpx.AsyncClient(base_url=service.admin_url) as http:
        metrics = (await http.get("/metrics")).text
    return f"runwire_sse_connections {number}" in metrics.replace(".0\n", "\n")


async def test_an_earlier_state_of_the_same_database_is_told_by_its_count(database: str) -> None:
    """As a disk's snapshot is: nothing else of it is different."""
    changes: list[None] = []
    async with Database(database) as here:
        epoch = LogEpoch(here, on_change=lambda: changes.append(None))
        assert await epoch.look() is False
        assert await epoch.look() is False
        await here.execute("UPDATE log_epoch SET beats = beats - 2")
        assert await epoch.look() is True
        assert await epoch.look() is False
        assert changes == [None]


async def test_a_table_that_was_loaded_anew_is_another_history(database: str) -> None:
    async with Database(database) as here:
        epoch = LogEpoch(here, on_change=lambda: None)
        await epoch.look()
        await here.execute("TRUNCATE runs CASCADE")
        assert await epoch.look() is True


async def test_processes_that_count_together_take_each_other_for_no_restore(database: str) -> None:
    async with Database(database) as here:
        several = [LogEpoch(here, on_change=lambda: None) for _ in range(4)]
        for _ in range(5):
            assert [await epoch.look() for epoch in several] == [False] * 4
