"""Load whose every run is watched on the wire from its first event to its last, so that nothing lost goes unseen."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from drills.stage import Stage
from waiting import eventually

EVENTS: Final = list(range(1, 14))
"""The seqs of a golden run."""


@dataclass
class _Watched:
    begun_at: float
    seqs: list[int] = field(default_factory=list)
    ended: bool = False


class WatchedRuns:
    """The runs so far, as their viewers saw them: nothing is dropped and nothing asked for again on this side."""

    def __init__(self) -> None:
        self.runs: dict[str, _Watched] = {}

    @property
    def finished(self) -> int:
        return sum(run.ended for run in self.runs.values())

    @property
    def open(self) -> int:
        return len(self.runs) - self.finished

    async def whole(self, *, begun_before: float, within_s: float) -> int:
        """How many runs were begun before that; each has ended, and its viewer has seen each event once, in order."""
        chosen = {run_id: run for run_id, run in self.runs.items() if run.begun_at < begun_before}
        await eventually(lambda: all(run.ended for run in chosen.values()), within_s=within_s)
        assert {run_id: run.seqs for run_id, run in chosen.items() if run.seqs != EVENTS} == {}
        return len(chosen)

    async def watch(self, url: str, run_id: str, session: aiohttp.ClientSession) -> None:
        run = self.runs[run_id]
        async with session.get(f"{url}/api/agents/runs/{run_id}/stream?fromSeq=0") as answer:
            async for line in answer.content:
                if line.startswith(b"data:"):
                    data = json.loads(line.removeprefix(b"data:"))
                    if "seq" in data:
                        run.seqs.append(data["seq"])
                elif line.startswith(b"event: end"):
                    run.ended = True


@asynccontextmanager
async def watched_runs(stage: Stage, *, every_s: float = 0.25) -> AsyncIterator[WatchedRuns]:
    """Inside, golden runs are started all the time, whether or not those before them get on."""
    client = await stage.api()
    url = stage.member("api-0").url
    watched = WatchedRuns()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        watching: list[asyncio.Task[None]] = []

        async def starting() -> None:
            while True:
                begun_at = time.time()
                run = await client.start("golden", input={"delay_ms": 20})
                watched.runs[run.run_id] = _Watched(begun_at)
                watching.append(asyncio.create_task(watched.watch(url, run.run_id, session)))
                await asyncio.sleep(every_s)

        task = asyncio.create_task(starting())
        try:
            yield watched
        finally:
            for one in (task, *watching):
                one.cancel()
            ends = await asyncio.gather(task, *watching, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) or end is None for end in ends), ends
