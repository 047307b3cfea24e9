"""Processes die while agents write parts, and every client shows each byte of them once."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

from content.plane import Plane
from content.transcript import Transcript
from crash.author import PARTS, Task, report_of, text_of
from crash.chaos import Chaos
from crash.fleet import QUICK_TAKEOVER, Fleet, fleet_of
from crash.stored import stored_events
from crash.subscriber import Tally
from crash.wire import Block, Body, posted, sent
from realclients.chromium import Page, page_in
from runwire.db import Database
from waiting import eventually

RUNS: Final = "/api/agents/runs"
ROLES: Final = ("api", "api", "worker", "worker", "publisher")
TESTS: Final = Path(__file__).parents[1]
FOLLOW: Final = """((name, url) => {
    const blocks = (window.blocks ||= {})[name] = [];
    const source = (window.sources ||= {})[name] = new EventSource(url);
    const keep = kind => message => blocks.push([kind, message.lastEventId, message.data]);
    source.onmessage = keep("");
    for (const kind of ["part", "end"]) source.addEventListener(kind, keep(kind));
})"""


@dataclass(frozen=True, slots=True)
class Scale:
    """`tabs` are native EventSources of a browser, six for each API process at most: it has no more connections."""

    runs: int
    readers: int
    kills: int
    freezes: int
    words: int
    pause_ms: float
    spread_s: float
    gap_s: tuple[float, float]
    within_s: float
    tabs: int = 0


@dataclass(slots=True)
class Outcome:
    took_s: float = 0.0
    transcripts: int = 0
    resets: int = 0
    attempts: int = 0
    killed: dict[str, int] | None = None
    frozen: dict[str, int] | None = None
    tally: Tally | None = None


class Reader:
    """A client of a run's events and parts that goes away at random, and comes back with its last id, anywhere."""

    def __init__(
        self,
        run_id: str,
        ports: Sequence[int],
        rng: random.Random,
        tally: Tally,
        *,
        header: Callable[[], str] = lambda: "",
    ) -> None:
        """`header` gives the credentials, as a line of the head."""
        self.transcript = Transcript(run_id)
        self.over = False
        self._ports = ports
        self._rng = rng
        self._tally = tally
        self._header = header

    async def run(self) -> None:
        while not self.over:
            dropping = self._rng.random() < 0.4
            self._tally.connects += 1
            self._tally.resumes += self.transcript.cursor != "0"
            try:
                async with asyncio.timeout(self._rng.uniform(0.05, 4.0) if dropping else None):
                    await self._visit()
            except TimeoutError:
                self._tally.dropped += 1
            except (OSError, EOFError):
                self._tally.cut += 1
            await asyncio.sleep(self._rng.uniform(0, 0.4))

    async def _visit(self) -> None:
        shown = self.transcript
        resumed = f"Last-Event-ID: {shown.cursor}\r\n" if shown.cursor != "0" else ""
        path = f"{RUNS}/{shown.run_id}/stream?parts=*"
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{self._header()}{resumed}\r\n"
        async with sent(self._rng.choice(self._ports), request) as (head, reader):
            if head.status == 503:
                raise ConnectionError
            if head.status == 204:
                assert shown.events, f"{shown.run_id}: 204 at the beginning"
                assert shown.events[-1]["type"] == "RunFinished", f"{shown.run_id}: 204 at {shown.cursor}"
                self.over = True
                return
            assert head.status == 200, f"{shown.run_id}: {head.status} at {shown.cursor}"
            body = Body(head.chunked)
            while data := await reader.read(65_536):
                for block in body.feed(data):
                    shown.take(block)
        self.over = shown.end is not None


class Tabs:
    """Native EventSources in a page of each API process, with nothing but their own memory."""

    def __init__(self, pages: Sequence[Page], ports: Sequence[int]) -> None:
        self._pages = pages
        self._ports = ports
        self._runs: list[list[str]] = [[] for _ in pages]

    async def open(self) -> None:
        for page, port in zip(self._pages, self._ports, strict=True):
            await page.open(f"http://127.0.0.1:{port}/")

    async def follow(self, run_ids: Sequence[str]) -> None:
        for number, run_id in enumerate(run_ids):
            page = self._pages[number % len(self._pages)]
            self._runs[number % len(self._pages)].append(run_id)
            url = f"{RUNS}/{run_id}/stream?parts=*"
            await page.evaluate(f"{FOLLOW}({json.dumps(run_id)}, {json.dumps(url)})")

    async def transcripts(self, *, within_s: float) -> list[Transcript]:
        """When every stream has ended by itself."""

        async def over() -> bool:
            left = "Object.values(window.sources || {}).filter(s => s.readyState !== EventSource.CLOSED).length"
            counts: list[int] = [await page.evaluate(left) for page in self._pages]
            return sum(counts) == 0

        await eventually(over, within_s=within_s)
        read = []
        for page, run_ids in zip(self._pages, self._runs, strict=True):
            for run_id in run_ids:
                transcript = Transcript(run_id)
                for kind, last_id, data in await page.evaluate(f"window.blocks[{json.dumps(run_id)}]"):
                    fields = {"data": data, **({"event": kind} if kind else {})}
                    transcript.take(Block(fields if kind == "end" else {**fields, "id": last_id}, ()))
                assert transcript.end is not None, f"{run_id}: a browser gave up at {transcript.cursor}"
                read.append(transcript)
        return read


async def written_through_kills(
    scale: Scale, *, database: str, folder: Path, seed: int, chromium: str | None = None
) -> Outcome:
    """Holds the campaign and checks everything. Raises AssertionError at the first thing that is not as it must be."""
    rng, began = random.Random(seed), time.monotonic()
    outcome = Outcome(tally=Tally())
    environment = {
        **QUICK_TAKEOVER,
        "RUNWIRE_CONTENT_URL": str(folder / "content"),
        "RUNWIRE_AGENTS": "crash.author:author",
        "PYTHONPATH": str(TESTS),
    }
    tasks = {f"text-{seed}-{n}": _task(scale, n) for n in range(scale.runs)}
    async with fleet_of(ROLES, database=database, logs=folder, environment=environment) as fleet:
        chaos = Chaos(fleet, rng=random.Random(rng.random()))
        async with _tabs(chromium, fleet, folder=folder) as tabs:
            readers = await _written(scale, fleet, chaos, tabs, tasks=tasks, rng=rng, tally=outcome.tally)
            transcripts = [reader.transcript for reader in readers]
            if tabs is not None:
                transcripts += await tabs.transcripts(within_s=scale.within_s)
        assert fleet.errors() == []
    outcome.took_s = time.monotonic() - began
    outcome.killed, outcome.frozen = dict(chaos.kills), dict(chaos.freezes)
    outcome.transcripts = len(transcripts)
    outcome.resets = sum(transcript.resets for transcript in transcripts)
    outcome.attempts = await _checked(transcripts, tasks, database=database, folder=folder / "content")
    return outcome


def _task(scale: Scale, number: int) -> Task:
    return Task(scale.words, scale.pause_ms, large=number % 5 == 0, fails=int(number % 7 == 3))


async def _written(
    scale: Scale,
    fleet: Fleet,
    chaos: Chaos,
    tabs: Tabs | None,
    *,
    tasks: dict[str, Task],
    rng: random.Random,
    tally: Tally | None,
) -> list[Reader]:
    """Starts the runs and has them read, while processes die; returns when every reader has everything."""
    assert tally is not None
    run_ids = list(tasks)
    watched = [run_ids[n % len(run_ids)] for n in range(scale.readers - scale.tabs)]
    readers = [Reader(run_id, fleet.ports, random.Random(rng.random()), tally) for run_id in watched]
    try:
        async with asyncio.timeout(scale.within_s), asyncio.TaskGroup() as everybody:

            async def begin(run_id: str, after_s: float) -> None:
                await asyncio.sleep(after_s)
                await _started(run_id, tasks[run_id], fleet.ports, rng=rng)
                for reader in readers:
                    if reader.transcript.run_id == run_id:
                        everybody.create_task(reader.run())

            first = run_ids[: scale.tabs]
            if tabs is not None:
                await tabs.open()
                await asyncio.gather(*(begin(run_id, 0.0) for run_id in first))
                await tabs.follow(first)
            for run_id in run_ids if tabs is None else run_ids[scale.tabs :]:
                everybody.create_task(begin(run_id, rng.uniform(0, scale.spread_s)))
            await eventually(lambda: any(reader.transcript.size for reader in readers), within_s=scale.within_s)
            everybody.create_task(chaos.run(kills=scale.kills, freezes=scale.freezes, gap_s=scale.gap_s))
    except TimeoutError:
        late = [f"{r.transcript.run_id} at {r.transcript.cursor}" for r in readers if not r.over]
        down = [member.name for member in fleet.members if not member.running]
        raise AssertionError(f"not at the end after {scale.within_s:g} s: {late[:20]}; not running: {down}") from None
    return readers


async def _started(run_id: str, task: Task, ports: Sequence[int], *, rng: random.Random) -> None:
    """Asked for until somebody answers."""
    while True:
        try:
            status, answer = await posted(
                rng.choice(ports), RUNS, {"agent": "author", "runId": run_id, "input": asdict(task)}
            )
        except (OSError, EOFError):
            status, answer = 503, None
        if status != 503:
            assert status == 202, answer
            return
        await asyncio.sleep(rng.uniform(0.05, 0.3))


@asynccontextmanager
async def _tabs(chromium: str | None, fleet: Fleet, *, folder: Path) -> AsyncIterator[Tabs | None]:
    if chromium is None:
        yield None
        return
    async with AsyncExitStack() as held:
        pages = [
            await held.enter_async_context(page_in(chromium, profile=folder / f"profile-{number}"))
            for number, _ in enumerate(fleet.ports)
        ]
        yield Tabs(pages, fleet.ports)


# ---------------------------------------------------------------------- what must be true of it all


async def _checked(transcripts: Sequence[Transcript], tasks: dict[str, Task], *, database: str, folder: Path) -> int:
    """Every transcript is the bytes of the artifacts, which are what was written. Nothing dangles, and nothing is left
    over once it was collected. Returns how many attempts of parts there were.
    """
    connection = await asyncpg.connect(database)
    try:
        await eventually(lambda: connection.fetchval("SELECT count(*) = 0 FROM run_outbox"), within_s=30)
        rows = await connection.fetch("SELECT run_id, state::text AS state FROM runs")
        assert {row["run_id"]: row["state"] for row in rows} == dict.fromkeys(tasks, "finished")
        assert await connection.fetchval("SELECT count(*) FROM part_chunks") == 0, "rows of sealed parts are left"
        parts = await connection.fetch("SELECT * FROM parts ORDER BY run_id, n")
        assert {(row["run_id"], row["name"]) for row in parts} == {(run_id, name) for run_id in tasks for name in PARTS}
        stored = {run_id: await stored_events(connection, run_id) for run_id in tasks}
    finally:
        await connection.close()
    async with Database(database) as connected:
        plane = Plane(connected, folder)
        whole: dict[tuple[str, int], bytes] = {}
        for row in parts:
            run_id, n, name = row["run_id"], row["n"], row["name"]
            assert (row["state"], row["artifact"] is None) == ("sealed", False), (run_id, n)
            whole[run_id, n] = text_of(run_id, name, row["attempt"], tasks[run_id])
            assert await plane.bytes_of(run_id, row["artifact"]) == whole[run_id, n], (run_id, n)
        for run_id, task in tasks.items():
            await _check_artifacts(plane, run_id, task, stored[run_id])
        for transcript in transcripts:
            assert transcript.events == stored[transcript.run_id], transcript.run_id
            expected = {n: data for (run_id, n), data in whole.items() if run_id == transcript.run_id}
            assert transcript.sealed == expected, transcript.run_id
        await plane.check(collected=False)
        while await plane.collector().collect():
            pass
        await plane.check(collected=True)
    return sum(row["attempt"] for row in parts)


async def _check_artifacts(plane: Plane, run_id: str, task: Task, events: Sequence[dict[str, Any]]) -> None:
    """The log and the list tell of the same artifacts, and each has its bytes: reading proves them by their hash."""
    told = [event["fn"] for event in events if event.get("fn", "").startswith("artifact:")]
    listed = await plane.reader.list(run_id)
    assert told == [f"artifact:{artifact.name}:{artifact.n}" for artifact in listed], run_id
    by_name = {artifact.name: await plane.bytes_of(run_id, artifact.n) for artifact in listed}
    assert by_name["report"] == report_of(run_id, task), run_id
    assert json.loads(by_name["result"]) == {"of": run_id}
