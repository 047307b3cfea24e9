"""One look at the whole service, across its processes, from PostgreSQL alone. It only reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from runwire.db import Database, load_sql
from runwire.errors import DatabaseUnavailable
from runwire.thresholds import PUBLISHER_DEAD_S

_SQL: Final = load_sql("runwire.observe", "top.sql")
_OBSERVED: Final = load_sql("runwire.observe", "observe.sql")


@dataclass(frozen=True, slots=True)
class SeenProcess:
    """A process by its heartbeat. `alive`: it was seen lately. `failing`: the code of what its publisher cannot do."""

    process_id: str
    host: str
    pid: int
    version: str
    roles: tuple[str, ...]
    slots: int
    walking: int
    streams: int
    agents: int
    up_s: float
    seen_s: float
    alive: bool
    failing: str | None


@dataclass(frozen=True, slots=True)
class SeenAgent:
    """The open runs of an agent. `workers` is how many live workers know it, `unclaimed` the runs that one could take,
    `oldest_s` the age of the oldest of those.
    """

    agent: str
    pending: int
    started: int
    waiting: int
    unclaimed: int
    oldest_s: float | None
    workers: int


@dataclass(frozen=True, slots=True)
class Overview:
    """`backlog_events` and `backlog_s`: events that are not published, and the age of the oldest. `publisher_s`: the
    time since any publisher was heard of.
    """

    processes: tuple[SeenProcess, ...]
    agents: tuple[SeenAgent, ...]
    backlog_events: int
    backlog_s: float | None
    publishers: int
    publisher_s: float | None
    timers_overdue: int
    signals_waiting: int


async def overview(database: Database, *, alive_s: float = PUBLISHER_DEAD_S) -> Overview:
    """Raises DatabaseUnavailable. A process that was not seen for `alive_s` does not count as alive."""
    backlog = await database.fetchrow(_OBSERVED["backlog"])
    publishers = await database.fetchrow(_OBSERVED["publishers"], alive_s)
    timers = await database.fetchrow(_OBSERVED["timers"])
    unclaimed = {row["agent"]: row for row in await database.fetch(_OBSERVED["unclaimed"])}
    workers = {row["agent"]: row["workers"] for row in await database.fetch(_SQL["walkers"], alive_s)}
    states: dict[str, dict[str, int]] = {agent: {} for agent in unclaimed}
    for row in await database.fetch(_SQL["agents"]):
        states.setdefault(row["agent"], {})[row["state"]] = row["runs"]
    processes = await database.fetch(_SQL["processes"])
    if backlog is None or publishers is None or timers is None:
        raise DatabaseUnavailable("an aggregate came back empty")
    return Overview(
        processes=tuple(
            SeenProcess(
                process_id=row["process_id"],
                host=row["host"],
                pid=row["pid"],
                version=row["version"],
                roles=tuple(row["roles"]),
                slots=row["slots"],
                walking=row["walking"],
                streams=row["streams"],
                agents=row["agents"],
                up_s=row["up_s"],
                seen_s=max(row["seen_s"], 0.0),
                alive=row["seen_s"] <= alive_s,
                failing=row["failing"],
            )
            for row in processes
        ),
        agents=tuple(
            SeenAgent(
                agent=agent,
                pending=runs.get("pending", 0),
                started=runs.get("started", 0),
                waiting=runs.get("waiting", 0),
                unclaimed=unclaimed[agent]["runs"] if agent in unclaimed else 0,
                oldest_s=unclaimed[agent]["oldest_s"] if agent in unclaimed else None,
                workers=workers.get(agent, 0),
            )
            for agent, runs in sorted(states.items())
        ),
        backlog_events=backlog["events"],
        backlog_s=backlog["oldest_s"],
        publishers=publishers["alive"],
        publisher_s=publishers["age_s"],
        timers_overdue=timers["overdue"],
        signals_waiting=timers["signals"],
    )
