"""The users of the service: callers that start runs in waves, viewers that come and go, orchestrators elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp

import runwire
from pictures.viewer import Viewer
from runwire.errors import RunwireError
from runwire.model.event import RUN_FINISHED, RUN_STARTED, debug_trace
from runwire.model.run import RunState

WAVE_S: Final = 150.0
ORCHESTRATORS: Final = 12
_STEP: Final = debug_trace("step.done")


@asynccontextmanager
async def users(urls: Sequence[str], *, seed: int) -> AsyncIterator[Users]:
    """Inside, everybody is busy. Each API process has its share of them."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(runwire.Client(url, retry_s=30)) for url in urls]
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        async with asyncio.TaskGroup() as group:
            made = Users(clients, session, group, random.Random(seed))  # a made-up load
            made.begin()
            try:
                yield made
            finally:
                made.end()


class Users:
    def __init__(
        self,
        clients: list[runwire.Client],
        session: aiohttp.ClientSession,
        group: asyncio.TaskGroup,
        chance: random.Random,
    ) -> None:
        self._clients = clients
        self._group = group
        self._chance = chance
        self._session = session
        self._viewers = 0
        self._busy: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        self._soon(self._start_runs())
        for number in range(ORCHESTRATORS):
            self._soon(self._orchestrate(number))

    def end(self) -> None:
        for task in self._busy:
            task.cancel()

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(_suppressing(work))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    def _client(self) -> runwire.Client:
        return self._chance.choice(self._clients)

    async def _start_runs(self) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            wave = math.sin(2 * math.pi * (clock() - began) / WAVE_S)
            self._soon(self._one_run())
            await asyncio.sleep(self._chance.expovariate(3.5 + 2.0 * wave))

    async def _one_run(self) -> None:
        """Started, watched by some or nobody, and at times cancelled or in need of a word."""
        chance = self._chance
        agent = chance.choices(("triage", "report", "golden"), (0.6, 0.3, 0.1))[0]
        given = {"delay_ms": chance.randrange(50, 400)} if agent == "golden" else {}
        run = await self._client().start(agent, input=given)
        for _ in range(chance.choices((0, 1, 2, 5), (0.15, 0.6, 0.2, 0.05))[0]):
            self._soon(self._watch(run.run_id))
        if chance.random() < 0.05:
            await asyncio.sleep(chance.uniform(0.5, 4))
            await self._client().cancel(run.run_id)
        elif agent == "triage":
            await self._approve(run.run_id)

    async def _approve(self, run_id: str) -> None:
        await asyncio.sleep(6)
        client = self._client()
        if (await client.run(run_id)).state is RunState.WAITING:
            await asyncio.sleep(self._chance.uniform(5, 60))
            await client.signal(run_id, "approved")

    async def _watch(self, run_id: str) -> None:
        """To the end; one in eight goes away in between and comes back."""
        self._viewers += 1
        viewer = Viewer(self._session, f"viewer/{self._viewers}")
        url = f"{self._client().base_url}/api/agents/runs/{run_id}/stream"
        leaves = 4 if self._chance.random() < 0.12 else None
        if not await viewer.watch(url, leaves_after=leaves):
            await asyncio.sleep(self._chance.uniform(0.5, 3))
            await viewer.watch(url)

    async def _orchestrate(self, number: int) -> None:
        """An orchestrator elsewhere: run after run of its own, each about a minute; now and then it is out of step."""
        client = self._clients[number % len(self._clients)]
        while True:
            with contextlib.suppress(RunwireError):
                run = await client.start("etl", external=True, lease_seconds=60)
                self._soon(self._watch(run.run_id))
                at = (await client.append(run, [RUN_STARTED])).last_seq
                for _ in range(self._chance.randrange(40, 100)):
                    at = (await client.append(run, [_STEP] * self._chance.randrange(2, 7), if_seq=at)).last_seq
                    if self._chance.random() < 0.004:
                        await client.append(run, [_STEP], if_seq=at - 1)
                    await asyncio.sleep(self._chance.uniform(0.3, 0.7))
                await client.append(run, [RUN_FINISHED], outcome=RunState.FINISHED)
            await asyncio.sleep(self._chance.uniform(0, 2))


async def _suppressing(work: Coroutine[Any, Any, None]) -> None:
    """An error for one user must not disturb the others."""
    with contextlib.suppress(RunwireError):
        await work
