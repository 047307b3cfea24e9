"""The faults of the pictured service and their times: each as it happens in production, without mocks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import asyncpg

import runwire
from crash.fleet import Member
from drills.collector import Collector
from runwire.errors import RunwireError
from runwire.model.event import RUN_STARTED

LASTS_S: Final = 500.0
SHOWN_S: Final = 420.0


@dataclass(frozen=True, slots=True)
class Scene:
    database: str
    members: dict[str, Member]
    collector: Collector
    session: aiohttp.ClientSession


async def told(scene: Scene) -> None:
    """From an idle beginning to an incident that is still going on at the end."""
    await asyncio.gather(
        *(
            _at(seconds, happening)
            for seconds, happening in (
                (150, _throttled(scene, "publisher-0", off_s=0.5, on_s=0.25, lasting_s=22)),
                (205, _collector_gone(scene, lasting_s=9)),
                (232, _connections_lost(scene)),
                (268, _killed_and_started(scene, "publisher-0", after_s=1.0)),
                (325, _deployed(scene, "api-1")),
                (362, _killed_and_started(scene, "worker-1", after_s=4.0)),
                (420, _throttled(scene, "publisher-0", off_s=0.24, on_s=0.12, lasting_s=LASTS_S)),
                (438, _flapping(scene)),
            )
        ),
        asyncio.sleep(LASTS_S),
    )


async def _at(seconds: float, happening: Coroutine[Any, Any, None]) -> None:
    """It begins then, and ends with the story if not by itself."""
    await asyncio.sleep(seconds)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LASTS_S - seconds):
            await happening


async def _throttled(scene: Scene, name: str, *, off_s: float, on_s: float, lasting_s: float) -> None:
    """A container at its CPU quota: it stands still for most of each period."""
    member = scene.members[name]
    until = asyncio.get_running_loop().time() + lasting_s
    while asyncio.get_running_loop().time() < until:
        with member.frozen():
            await asyncio.sleep(off_s)
        await asyncio.sleep(on_s)


async def _collector_gone(scene: Scene, *, lasting_s: float) -> None:
    await scene.collector.stop()
    await asyncio.sleep(lasting_s)
    await scene.collector.start()


async def _connections_lost(scene: Scene) -> None:
    """A firewall forgets connections: of the publisher, and of those that listen."""
    connection = await asyncpg.connect(scene.database)
    try:
        for _ in range(2):
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name IN ('runwire publish', 'runwire bus', 'runwire listener', 'runwire notify')"
            )
            await asyncio.sleep(3)
    finally:
        await connection.close()


async def _killed_and_started(scene: Scene, name: str, *, after_s: float) -> None:
    scene.members[name].kill()
    await asyncio.sleep(after_s)
    await scene.members[name].start(within_s=60)


async def _deployed(scene: Scene, name: str) -> None:
    await scene.members[name].terminate(within_s=40)
    await scene.members[name].start(within_s=60)


async def _flapping(scene: Scene) -> None:
    """A proxy with a short timeout cuts off the viewers of one run, and they come back."""
    url = scene.members["api-0"].url
    async with runwire.Client(url) as client:
        run = await client.start("etl", external=True, lease_seconds=600)
        await client.append(run, [RUN_STARTED])

        async def cut_off_again_and_again(viewer: str) -> None:
            headers = {"User-Agent": viewer, "Last-Event-ID": "0"}
            while True:
                with contextlib.suppress(aiohttp.ClientError, RunwireError):
                    address = f"{url}/api/agents/runs/{run.run_id}/stream"
                    async with scene.session.get(address, headers=headers) as answer:
                        await answer.content.readline()
                        await asyncio.sleep(5)
                await asyncio.sleep(2)

        await asyncio.gather(*(cut_off_again_and_again(f"viewer/{number}") for number in range(3)))
