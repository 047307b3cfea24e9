"""Faults that keep clients out, those of the canary, and those of a place: its clock, its way to other processes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from crash.fleet import free_port
from drills.faults import cancelled
from drills.stage import TESTS, Stage
from muffled import Way
from runwire.errors import RunwireError
from waiting import eventually

RUNS = "/api/agents/runs"
ASK_S = 0.2
WRONG_CLOCK = TESTS / "drills" / "wrong_clock"
"""On PYTHONPATH, its `sitecustomize` makes the clock of a process wrong by the seconds in the file $DRILL_CLOCK."""
UNVERIFIED = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImRyaWxsIn0.e30.AAAA"
"""A token (RS256, kid `drill`) whose key nobody can look up."""


async def starts_refused(stage: Stage) -> AsyncIterator[None]:
    """An API process whose limit on open runs is too low for them."""
    await stage.add("api-4", "api", RUNWIRE_RUNS_OPEN_MAX="1")
    await (await stage.api()).start("patient")
    async with _asking(stage, "api-4", "POST", json={"agent": "patient"}):
        yield
    await stage.remove("api-4")


async def issuer_away(stage: Stage) -> AsyncIterator[None]:
    """An API process that takes tokens, of an issuer that does not answer."""
    await stage.add(
        "api-5",
        "api",
        RUNWIRE_JWT_JWKS=f"http://127.0.0.1:{free_port()}/jwks",
        RUNWIRE_JWT_ISSUER="https://issuer.example",
        RUNWIRE_JWT_AUDIENCE="runwire",
    )
    async with _asking(stage, "api-5", "GET", headers={"Authorization": f"Bearer {UNVERIFIED}"}):
        yield
    await stage.remove("api-5")


async def process_keeps_ending(stage: Stage) -> AsyncIterator[None]:
    """Each life is long enough to be scraped."""
    place = await stage.add("observer-2", "observer")
    born: float | None = await eventually(lambda: _born(stage, after=0.0), within_s=60)
    for _ in range(3):
        place.kill()
        await place.start()
        born = await eventually(lambda before=born: _born(stage, after=before or 0.0), within_s=60)  # type: ignore[misc]
    yield  # what ended it has been mended


async def _born(stage: Stage, *, after: float) -> float | None:
    """When the process that was scraped last started, if that was later."""
    found = await stage.watching[0].value('process_start_time_seconds{instance="observer-2"}')
    return found if found is not None and found > after else None


@contextlib.asynccontextmanager
async def _asking(stage: Stage, name: str, method: str, **request: Any) -> AsyncIterator[None]:
    """Inside, a client sends the same request again and again."""
    url = f"{stage.member(name).url}{RUNS}"

    async def ask() -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with stage.session.request(method, url, **request) as answer:
                    await answer.read()
            await asyncio.sleep(ASK_S)

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def clock_ahead(stage: Stage) -> AsyncIterator[None]:
    """The clock of an API process's machine is three seconds ahead, while viewers watch runs there."""
    clock = stage.folder / "clock"
    clock.write_text("3")
    await stage.add("api-6", "api", PYTHONPATH=f"{WRONG_CLOCK}:{TESTS}", DRILL_CLOCK=str(clock))
    client = await stage.api("api-6")

    async def watch() -> None:
        while True:
            with contextlib.suppress(RunwireError):
                async for _ in client.stream(await client.start("golden", input={"delay_ms": 20})):
                    pass

    watching = asyncio.create_task(watch())
    yield
    clock.write_text("0")  # the machine synchronises its time
    await eventually(lambda: _less_than(stage, "abs(runwire_clock_offset_seconds)", 1), within_s=60)
    await cancelled(watching)
    await stage.remove("api-6")


async def api_deaf(stage: Stage) -> AsyncIterator[None]:
    """A proxy between an API process and PostgreSQL drops notifications."""
    async with Way(stage.database).open() as way:
        await stage.add("api-7", "api", RUNWIRE_DATABASE_URL=way.dsn)
        yield
        way.muffled = False
        await eventually(lambda: _less_than(stage, 'runwire_role_unwell{instance="api-7"}', 1), within_s=60)
        await stage.remove("api-7")


async def _less_than(stage: Stage, series: str, value: float) -> bool:
    found = await stage.prometheus.value(series)
    return found is not None and found < value


async def api_killed(stage: Stage) -> AsyncIterator[None]:
    """The only API process is killed: nobody can start, watch or cancel a run."""
    stage.member("api-0").kill()
    yield
    await stage.member("api-0").start()


async def canary_fails(stage: Stage) -> AsyncIterator[float]:
    """The API process behind the canary's URL is killed."""
    api = await stage.add("api-9", "api")
    canary = await stage.add_canary("canary-1", api="api-9")
    await eventually(lambda: True in canary.rounds, within_s=60)
    api.kill()
    killed = time.time()
    yield killed
    await api.start()
    await eventually(lambda: canary.rounds[-1], within_s=60)
    await eventually(lambda: _is(stage, 'runwire_canary_up{instance="canary-1"}', 1), within_s=60)
    await stage.remove("canary-1")
    await stage.remove("api-9")


async def canary_frozen(stage: Stage) -> AsyncIterator[None]:
    """The only canary is there, and walks no rounds."""
    with stage.member("canary-0").frozen():
        yield


async def _is(stage: Stage, series: str, wanted: float) -> bool:
    return await stage.prometheus.value(series) == wanted
