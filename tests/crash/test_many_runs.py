"""Clients of many runs see each event of each run once and in order, though API processes are killed under them."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import asyncpg
import httpx
import pytest

from crash.fleet import Fleet, fleet_of
from crash.stored import stored_events
from waiting import eventually

pytestmark = [pytest.mark.crash, pytest.mark.timeout(180)]

RUNS = "/api/agents/runs"
STREAM = "/api/agents/stream"
CHATS = 3
RUNS_A_CHAT = 12


class Watcher:
    """A client with the memory of an EventSource: the last id, and what it showed. It goes on at any process."""

    def __init__(self, fleet: Fleet, query: str, *, rng: random.Random) -> None:
        self.told: dict[str, list[int | str]] = {}
        self.connections = 0
        self._fleet = fleet
        self._query = query
        self._rng = rng
        self._last_id = ""

    async def run(self) -> None:
        """Comes back again and again, until cancelled."""
        while True:
            member = self._rng.choice([member for member in self._fleet.members if member.port])
            try:
                await self._connection(f"{member.url}{STREAM}?{self._query}")
            except (httpx.HTTPError, OSError):
                await asyncio.sleep(0.05)

    async def _connection(self, url: str) -> None:
        headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
        async with (
            httpx.AsyncClient(timeout=httpx.Timeout(5, read=20)) as http,
            http.stream("GET", url, headers=headers) as response,
        ):
            if response.status_code != 200:
                assert response.status_code in (204, 503), await response.aread()
                await asyncio.sleep(0.2)  # the pause before a client asks again
                return
            self.connections += 1
            block: dict[str, str] = {}
            async for line in response.aiter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    block[name] = value
                    continue
                self._take(block)
                block = {}

    def _take(self, block: dict[str, str]) -> None:
        self._last_id = block.get("id", self._last_id)
        if "data" in block:
            data = json.loads(block["data"])
            told = data["state"] if block.get("event") == "end" else data["seq"]
            self.told.setdefault(data["runId"], []).append(told)


async def test_streams_of_many_runs_are_whole_while_api_processes_are_killed(database: str, tmp_path: Path) -> None:
    rng = random.Random(7)  # repeatable
    async with fleet_of(["api", "api", "worker+publisher"], database=database, logs=tmp_path) as fleet:
        names = [f"chat{chat}-{n}" for chat in range(CHATS) for n in range(RUNS_A_CHAT)]
        listed = "&".join(f"run={name}" for name in names)
        async with httpx.AsyncClient(timeout=10) as http:

            async def start(name: str) -> None:
                body = {
                    "runId": name,
                    "session": name.partition("-")[0],
                    "labels": {"env": "prod"},
                    "input": {"delay_ms": rng.randrange(100, 900)},
                }

                async def accepted() -> bool:
                    member = rng.choice(fleet.members[:2])
                    try:
                        return (await http.post(f"{member.url}{RUNS}", json=body)).status_code == 202
                    except httpx.HTTPError:
                        return False

                await eventually(accepted, within_s=30)

            first = names[: len(names) // 2]
            await asyncio.gather(*map(start, first))
            queries = [*(f"session=chat{chat}" for chat in range(CHATS)), "label=env:prod"] * 2
            watchers = [Watcher(fleet, query, rng=random.Random(n)) for n, query in enumerate(queries)]
            tasks = [asyncio.create_task(watcher.run()) for watcher in watchers]
            for turn in range(3):
                await asyncio.gather(*map(start, names[len(first) + turn * 6 :][:6]))
                await asyncio.sleep(0.5)  # a life
                victim = fleet.members[turn % 2]
                victim.kill()
                await victim.start()
            late = Watcher(fleet, listed, rng=rng)
            tasks.append(asyncio.create_task(late.run()))

            def whole() -> bool:
                for task in tasks:
                    if task.done():
                        task.result()
                for watcher, query in zip([*watchers, late], [*queries, listed], strict=True):
                    mine = [n for n in names if not query.startswith("session") or query == f"session={n[:5]}"]
                    assert {run for run, told in watcher.told.items() if told[-1] == "finished"} == set(mine), query
                return True

            await eventually(whole, within_s=60)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        connection = await asyncpg.connect(database)
        stored = {run: await stored_events(connection, run) for run in names}
        await connection.close()
        for watcher in (*watchers, late):
            for run, told in watcher.told.items():
                assert told == [*(event["seq"] for event in stored[run]), "finished"], run
        assert sum(watcher.connections for watcher in watchers) > len(watchers), "streams were cut, and went on"
        assert fleet.errors() == []
