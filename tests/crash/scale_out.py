"""A deployment of many hosts, on one machine: everything of it is killed, stopped or restarted, one after the other."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from crash.fleet import QUICK_TAKEOVER, Fleet, Member, fleet_of
from crash.subscriber import Moods, Subscriber, Tally
from crash.test_crash import _audience, _check_against_database
from crash.wire import posted, sent
from nats_server import NatsServer, nats_server
from runwire.db.embedded import EmbeddedOptions, EmbeddedPostgres
from waiting import eventually

ROLES: Final = ("api", "api", "api", "worker", "worker", "publisher", "publisher")
RUNS: Final = "/api/agents/runs"
LAG_S: Final = 1.0
"""The longest a client may wait for an event without faults; far above the milliseconds on a quiet machine."""


@dataclass(frozen=True, slots=True)
class Scale:
    runs: int
    spread_s: float
    node_s: float
    nats_away_s: float
    rest_s: float
    within_s: float
    back_within_s: float = 10.0
    """After a fault events must be in time again; a busy machine needs longer to start a process."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results. `back_after_s`: from the end of the last fault until a client saw events in time again."""

    events: int
    took_s: float
    back_after_s: dict[str, float]
    resumed: int
    tally: Tally


async def held_together(scale: Scale, *, folder: Path, seed: int) -> Outcome:
    """Three API, two worker and two publisher processes over NATS and a PostgreSQL of their own, with faults.

    Each subscriber checks every byte; at the end all is compared with the database. Raises AssertionError.
    """
    rng = random.Random(seed)
    began = time.monotonic()
    tally = Tally()
    back: dict[str, float] = {}
    options = EmbeddedOptions(folder / "postgres", settings={"max_connections": "300"})
    async with nats_server() as nats, EmbeddedPostgres(options) as postgres:
        environment = {
            **QUICK_TAKEOVER,
            "RUNWIRE_BUS": nats.url,
            "RUNWIRE_WORKER_CONCURRENCY": "2000",
            "RUNWIRE_PUBLISH_BACKOFF_MAX_S": "1",
        }
        async with fleet_of(ROLES, database=postgres.dsn, logs=folder, environment=environment) as fleet:
            async with _audience(fleet, within_s=scale.within_s) as audience:
                for number in range(scale.runs):
                    audience.start_and_watch(
                        number,
                        rng=random.Random(rng.random()),
                        tally=tally,
                        moods=Moods(drop=0.3, reread=0.05),
                        spread_s=scale.spread_s,
                        node_s=scale.node_s,
                    )
                await asyncio.sleep(scale.rest_s)
                for name, fault in _faults(scale, fleet=fleet, nats=nats, postgres=postgres).items():
                    await fault()
                    back[name] = await _back_to_normal(fleet, rng=rng, number=len(back), within_s=scale.back_within_s)
                    await asyncio.sleep(scale.rest_s)
            resumed = await _checked(postgres.dsn, audience.subscribers, runs=scale.runs)
            assert fleet.errors() == []
    events = sum(len(subscriber.events) for subscriber in audience.subscribers)
    return Outcome(events, time.monotonic() - began, back, resumed, tally)


def _faults(
    scale: Scale, *, fleet: Fleet, nats: NatsServer, postgres: EmbeddedPostgres
) -> dict[str, Callable[[], Awaitable[None]]]:
    async def killed(member: Member) -> None:
        member.kill()
        await member.start()

    async def nats_away() -> None:
        nats.stop()
        await asyncio.sleep(scale.nats_away_s)  # as long as the outage is meant to be
        await nats.start()

    async def postgres_restarted() -> None:
        before = postgres.pid
        assert before is not None
        os.kill(before, signal.SIGKILL)

        async def answers() -> bool:
            try:
                connection = await asyncpg.connect(postgres.dsn, timeout=5)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                return False
            await connection.close()
            return postgres.pid != before

        await eventually(answers, within_s=60)

    return {
        "api killed": lambda: killed(fleet.of("api")[1]),
        "publisher killed": lambda: killed(fleet.of("publisher")[0]),
        "NATS away": nats_away,
        "worker killed": lambda: killed(fleet.of("worker")[0]),
        "PostgreSQL killed": postgres_restarted,
    }


async def _back_to_normal(fleet: Fleet, *, rng: random.Random, number: int, within_s: float) -> float:
    """Seconds until a run that is started now shows each of its events in time; fails after `within_s`."""
    began = time.monotonic()
    tries = 0

    async def in_time() -> bool:
        nonlocal tries
        tries += 1
        try:
            return await _lag_of_a_run(f"probe-{number}-{tries}", port=rng.choice(fleet.ports)) < LAG_S
        except (OSError, EOFError, TimeoutError):
            return False

    await eventually(in_time, within_s=within_s)
    return time.monotonic() - began


async def _lag_of_a_run(run_id: str, *, port: int) -> float:
    """The longest that an event of a golden run took from its append to this client."""
    async with asyncio.timeout(5):
        status, _ = await posted(port, RUNS, {"agent": "golden", "runId": run_id})
        if status != 202:
            raise ConnectionError(status)
        worst = 0.0
        async with sent(port, f"GET {RUNS}/{run_id}/stream HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n") as (head, stream):
            if head.status != 200:
                raise ConnectionError(head.status)
            while True:
                line = await stream.readuntil(b"\n")
                if line.startswith(b"event: end"):
                    return worst
                if line.startswith(b"data: "):
                    worst = max(worst, time.time() - json.loads(line[6:])["ts"] / 1000)


async def _checked(dsn: str, subscribers: Sequence[Subscriber], *, runs: int) -> int:
    connection = await asyncpg.connect(dsn)
    try:

        async def probes_over() -> bool:
            sql = "SELECT count(*) FROM runs WHERE run_id LIKE 'probe-%' AND state IN ('pending', 'started')"
            return bool(await connection.fetchval(sql) == 0)

        await eventually(probes_over, within_s=20)
        await eventually(lambda: connection.fetchval("SELECT count(*) = 0 FROM run_outbox"), within_s=20)
        await connection.execute("DELETE FROM runs WHERE run_id LIKE 'probe-%'")
    finally:
        await connection.close()
    return await _check_against_database(dsn, subscribers, runs=runs)
