"""Everybody comes back at once, 500 events behind, to a process that has nothing of the run in memory."""

from __future__ import annotations

from benchmarks.programs import crowd
from benchmarks.stand import Stand

NAME = "storm"
TITLE = "Reconnect storm: all clients of a run at once, each 500 events behind, nothing in memory"
CLIENTS = (1000, 5000)
STORED, BEHIND = 700, 500


async def measure(stand: Stand) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for clients in CLIENTS:
        prefix = stand.prefix()
        async with stand.serving("storm") as serving:
            await serving.do("runs", prefix=prefix, count=1, events=STORED)
            await stand.settle("storm")
            before = await serving.do("stats")
            async with crowd(serving.port, clients=clients, runs=1, prefix=prefix, after=STORED - BEHIND) as herd:
                found = await herd.expect(clients * BEHIND)
            after = await serving.do("stats")
        rows[f"{clients} clients"] = {
            "s": found["since_start_s"],
            "connected s": herd.connected["s"],
            "deliveries/s": found["deliveries"] / found["since_start_s"],
            "pages read": after["pages_read"] - before["pages_read"],
            "missing": clients * BEHIND - found["deliveries"],
        }
    return rows
