"""The soak, `make soak MINUTES=30`: mixed load and faults for long, and nothing that should be flat may grow."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from chaos.campaign import Report, Scale, campaign
from chaos.faults import FAULTS, Scene
from chaos.report import arguments, commit, put, tell_from
from crash.fleet import Member

SAMPLE_S: Final = 5.0
PROCESSES_GO_ON: Final = tuple(name for name in FAULTS if name not in ("kill", "database fails over"))
"""A process that is started anew would hide its leak, and so would a server's new connections."""

BEGIN: Final = "<!-- written by make soak -->"

TABLES: Final = """
SELECT relname, pg_relation_size(relid) AS bytes, n_live_tup AS live, n_dead_tup AS dead
FROM pg_stat_user_tables WHERE relname IN ('runs', 'run_outbox', 'run_checkpoints', 'publishers', 'run_signals')
"""
CONNECTIONS: Final = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'runwire%'"
BACKLOG: Final = """
SELECT coalesce(sum(r.last_seq - o.next_seq + 1), 0) FROM run_outbox AS o JOIN runs AS r USING (run_id)
"""


@dataclass(frozen=True, slots=True)
class Flat:
    """A quantity that must not grow: the last third's median may exceed the middle third's by `factor` and `slack`."""

    unit: str
    factor: float
    slack: float


LIMITS: Final = {
    "resident memory": Flat("MiB", 1.1, 6),
    "file descriptors": Flat("", 1.1, 10),
    "connections to PostgreSQL": Flat("", 1.1, 5),
    "size of run_outbox": Flat("KiB", 1.5, 512),
    "size of run_checkpoints, per open and closed run": Flat("B", 1.5, 64),
    "dead rows of runs, share": Flat("%", 1.5, 15),
    "events not published": Flat("", 2.0, 500),
}


class Watch:
    """Samples by what they are of, each with the seconds since the beginning."""

    def __init__(self) -> None:
        self.series: dict[str, list[tuple[float, float]]] = {}
        self._began = time.monotonic()

    async def run(self, scene: Scene) -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            for member in scene.fleet.members:
                if member.running:
                    self._note(f"resident memory of {member.name}", member.memory_kib / 1024)
                    self._note(f"file descriptors of {member.name}", _descriptors(member))
            try:
                await self._database(scene.cluster.primary.dsn)
            except (OSError, TimeoutError, asyncpg.PostgresError):
                continue  # it is being harmed: the next sample tells

    async def _database(self, dsn: str) -> None:
        connection = await asyncpg.connect(dsn, timeout=5)
        try:
            self._note("connections to PostgreSQL", float(await connection.fetchval(CONNECTIONS, timeout=5)))
            self._note("events not published", float(await connection.fetchval(BACKLOG, timeout=5)))
            tables = {row["relname"]: row for row in await connection.fetch(TABLES, timeout=5)}
        finally:
            connection.terminate()
        runs = tables["runs"]
        rows = max(runs["live"] + runs["dead"], 1)
        self._note("size of run_outbox", tables["run_outbox"]["bytes"] / 1024)
        self._note("size of run_checkpoints, per open and closed run", tables["run_checkpoints"]["bytes"] / rows)
        self._note("dead rows of runs, share", 100 * runs["dead"] / rows)

    def _note(self, name: str, value: float) -> None:
        self.series.setdefault(name, []).append((time.monotonic() - self._began, value))

    def thirds(self, name: str) -> tuple[float, float, float]:
        """The medians of the first, middle and last third."""
        values = [value for _, value in self.series[name]]
        size = max(len(values) // 3, 1)
        return (
            statistics.median(values[:size]),
            statistics.median(values[size : 2 * size] or values),
            statistics.median(values[-size:]),
        )

    def grown(self) -> list[str]:
        """The quantities that grew."""
        return [
            f"{name}: {middle:.1f} -> {last:.1f} {limit.unit}"
            for name in self.series
            for limit in [_limit(name)]
            for _, middle, last in [self.thirds(name)]
            if last > middle * limit.factor + limit.slack
        ]


def _limit(name: str) -> Flat:
    return next(limit for what, limit in LIMITS.items() if name.startswith(what))


def main() -> None:
    asked = arguments("make soak", about=__doc__, minutes=30, at_once=12)
    scale = Scale(
        seconds=asked.minutes * 60,
        kinds=PROCESSES_GO_ON,
        gap_s=(4, 10),
        at_once=asked.at_once,
        events=500,
        batch=25,
        pause_s=0.4,
        golden_every_s=0.5,
    )
    watch = Watch()
    with tempfile.TemporaryDirectory(prefix="runwire-soak-logs-") as folder:
        report = asyncio.run(
            campaign(scale, folder=Path(folder), seed=asked.seed, tell=tell_from(time.monotonic()), beside=watch.run)
        )
    text = "\n".join(_told(report, watch, minutes=asked.minutes, seed=asked.seed))
    print(text)  # noqa: T201  # the result
    if asked.report:
        put(text, begin=BEGIN)
    if grown := watch.grown():
        raise SystemExit("not flat: " + "; ".join(grown))


def _told(report: Report, watch: Watch, *, minutes: float, seed: int) -> Iterator[str]:
    yield (
        f"Commit `{commit()}`, seed {seed}: {minutes:g} minutes, {report.runs:,} runs, {report.events:,} events, "
        f"{report.faults.total()} faults of {len(report.faults)} kinds; nothing lost, nothing twice, order kept."
    )
    yield ""
    yield "| | first third | middle | last | flat |"
    yield "|---|---|---|---|---|"
    grown = {line.partition(":")[0] for line in watch.grown()}
    for name in sorted(watch.series):
        first, middle, last = watch.thirds(name)
        unit = _limit(name).unit
        yield f"| {name} | {first:.1f} | {middle:.1f} | {last:.1f} {unit} | {'no' if name in grown else 'yes'} |"


def _descriptors(member: Member) -> float:
    return float(sum(1 for _ in Path(f"/proc/{member.pid}/fd").iterdir()))


if __name__ == "__main__":
    main()
