"""Faults of parts: the bytes that a run's readers see while a node makes them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import parse_qs, urlsplit

import runwire
from chaos.proxy import Proxy, Toxic, proxying
from crash.fleet import Member
from drills.faults import Fault, Hold, cancelled, steer
from drills.stage import Stage
from runwire.errors import RunwireError
from runwire.model.event import RUN_FINISHED, RUN_STARTED
from runwire.model.run import RunState
from runwire.ops.pipeline_alerts import PART_LAG
from waiting import eventually

READERS: Final = 48
"""The alert that pages asks for a hundred observations, and a late reader makes few."""
CHUNK: Final = b"a few words, "
PATIENCE_S: Final = 120.0


def parts_late(lag_s: tuple[float, float], *, api: str) -> Fault:
    """The way between an API process and PostgreSQL has become slow: its readers get the bytes of parts late.

    As slow as brings the p95 that the alerts look at into that range, on whatever machine this is.
    """

    async def fault(stage: Stage) -> AsyncIterator[None]:
        async with proxying(upstream_path=_socket_of(stage.database)) as proxy:
            database = f"postgresql://{urlsplit(stage.database).username}@127.0.0.1:{proxy.port}"
            path = urlsplit(stage.database).path
            await stage.add(api, "api", RUNWIRE_DATABASE_URL=database + path, RUNWIRE_DB_TIMEOUT_S="30")
            hold = Hold(lag_s[0] / 4)
            async with _written_part(stage) as run, _reading(stage, run, api=api):
                slow = asyncio.create_task(_slow(proxy, hold))
                steering = asyncio.create_task(steer(stage, hold, lag_s, series=f"{PART_LAG}1m"))
                yield
                await cancelled(slow, steering)
                await eventually(lambda: _quick(stage, below_s=lag_s[0]), within_s=PATIENCE_S)
            await stage.remove(api)

    return fault


async def parts_very_late(stage: Stage) -> AsyncIterator[None]:
    """An API process stands still for seconds, again and again, as one that is throttled."""
    await stage.add("api-4", "api")
    async with _written_part(stage) as run, _reading(stage, run, api="api-4"):
        standing = asyncio.create_task(_stand_still(stage.member("api-4")))
        yield
        await cancelled(standing)
    await stage.remove("api-4")


async def _stand_still(process: Member) -> None:
    while True:
        with process.frozen():
            await asyncio.sleep(4.0)
        await asyncio.sleep(0.7)


def _socket_of(dsn: str) -> str:
    query = parse_qs(urlsplit(dsn).query)
    return f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"


async def _slow(proxy: Proxy, hold: Hold) -> None:
    while True:
        with proxy.toxic(Toxic(latency_s=hold.for_s)):
            await asyncio.sleep(0.5)


async def _quick(stage: Stage, *, below_s: float) -> bool:
    lag = await stage.prometheus.value(f"{PART_LAG}1m")
    return lag is not None and lag < below_s


@contextlib.asynccontextmanager
async def _written_part(stage: Stage) -> AsyncIterator[runwire.StartedRun]:
    """Inside, the run has a part that gets some words ten times a second, through the first API process."""
    client = await stage.api()
    run = await client.start("writing", external=True, lease_seconds=600)
    await client.append(run, [RUN_STARTED])
    parts = f"{stage.member('api-0').url}/api/agents/runs/{run.run_id}/parts"
    headers = {"Runwire-Fence": str(run.fence)}
    body = {"name": "answer", "mediaType": "text/plain"}
    async with stage.session.post(parts, json=body, headers=headers) as opened:
        assert opened.status == 201, await opened.text()

    async def write() -> None:
        while True:
            async with stage.session.post(f"{parts}/1", data=CHUNK, headers=headers) as written:
                assert written.status in (204, 503), await written.text()
            await asyncio.sleep(0.1)

    task = asyncio.create_task(write())
    try:
        yield run
    finally:
        await cancelled(task)
        with contextlib.suppress(RunwireError):
            await client.append(run, [RUN_FINISHED], outcome=RunState.FINISHED)


@contextlib.asynccontextmanager
async def _reading(stage: Stage, run: runwire.StartedRun, *, api: str) -> AsyncIterator[None]:
    """Inside, the part has readers at that API process, each of which has got some of it."""
    client = await stage.api(api)
    got = [0] * READERS

    async def read(reader: int) -> None:
        with contextlib.suppress(RunwireError):
            async for item in client.stream_with_parts(run):
                got[reader] += isinstance(item, runwire.PartPiece)

    tasks = [asyncio.create_task(read(reader)) for reader in range(READERS)]
    try:
        await eventually(lambda: all(pieces > 2 for pieces in got), within_s=PATIENCE_S)
        yield
    finally:
        await cancelled(*tasks)
