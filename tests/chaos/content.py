"""Content during faults: agents and external orchestrators write, runs wait and sleep, and clients follow all of it."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg

from chaos.load import Caller, Load
from chaos.tenants import RUNS, Tenant
from content.plane import Plane
from crash.author import PARTS, Task, report_of, text_of
from crash.content import Reader
from crash.stored import stored_events
from crash.subscriber import Tally
from crash.wire import Block, Body, sent
from runwire.db import Database
from runwire.model.part_offset import offset_text
from waiting import eventually

AGENTS: Final = ("crash.author:author", "chaos.patient:patient")
SESSIONS: Final = ("s0", "s1", "s2")
"""Names that both tenants use."""
CALM_S: Final = 5.0
"""The longest that a timer may be late without faults; far above the hundredths of a second on a quiet machine."""
TIMERS: Final = """
SELECT count(*) FILTER (WHERE type = 'NodeFinished' AND name = 'Ask') AS asked,
       count(*) FILTER (WHERE type = 'NodeFinished' AND name = 'Rest') AS rested,
       count(*) FILTER (WHERE type = 'NodeFinished' AND name = 'Wake') AS woken,
       (min(ts_us) FILTER (WHERE type = 'NodeStarted' AND name = 'Wake')
           - min(ts_us) FILTER (WHERE type = 'NodeFinished' AND name = 'Rest')) / 1e6 AS slept_s
FROM run_events WHERE run_id = $1
"""


@dataclass(frozen=True, slots=True)
class Rates:
    """How many runs of each kind are kept going. `words` is how much one of them writes."""

    authors: int = 2
    speakers: int = 1
    patients: int = 2
    words: int = 25


@dataclass(slots=True)
class Visited:
    """A run of the agent `patient`: its signal, whether it was accepted, and whether nothing was broken meanwhile."""

    rest_s: float
    within_s: float
    sent: list[Any] | None = None
    calm: bool = False
    told: list[Any] | None = None


class SessionReader:
    """A client of the stream of a session's runs, with the memory of an EventSource: each run whole, and its own."""

    def __init__(self, session: str, tenant: Tenant, ports: Sequence[int], rng: random.Random) -> None:
        self.session = session
        self.tenant = tenant
        self.told: dict[str, list[int | str]] = {}
        self._ports = ports
        self._rng = rng
        self._last_id = ""

    async def run(self) -> None:
        """Comes back again and again, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._rng.uniform(1, 10)):
                    await self._visit()
            except (OSError, EOFError):
                await asyncio.sleep(self._rng.uniform(0.05, 0.4))

    async def _visit(self) -> None:
        resumed = f"Last-Event-ID: {self._last_id}\r\n" if self._last_id else ""
        request = (
            f"GET /api/agents/stream?session={self.session} HTTP/1.1\r\nHost: localhost\r\n"
            f"{self.tenant.header}{resumed}\r\n"
        )
        async with sent(self._rng.choice(self._ports), request) as (head, reader):
            if head.status == 503:
                raise ConnectionError
            assert head.status == 200, f"{self.session} of {self.tenant.name}: {head.status} at {self._last_id}"
            body = Body(head.chunked)
            while data := await reader.read(65_536):
                for block in body.feed(data):
                    self._take(block)

    def _take(self, block: Block) -> None:
        fields = block.fields
        if "data" in fields:
            data = json.loads(fields["data"])
            run_id = data["runId"]
            assert self.tenant.owns(run_id), f"{self.tenant.name} is shown {run_id}"
            told = self.told.setdefault(run_id, [])
            if fields.get("event") == "end":
                assert told[-1:] == [data["lastSeq"]], f"{self.session}: {run_id} ends at {data} after {told[-1:]}"
                told.append(data["state"])
            else:
                assert data["seq"] == len(told) + 1, f"{self.session}: {run_id} {data['seq']} after {told[-1:]}"
                told.append(data["seq"])
        self._last_id = fields.get("id", self._last_id)


@dataclass(slots=True)
class Content:
    """Everything that was asked for and shown. Every reader asserts by itself that it gets each byte once, in order."""

    readers: list[Reader] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    authored: dict[str, Task] = field(default_factory=dict)
    spoken: dict[str, list[bytes]] = field(default_factory=dict)
    """Of each external run the bytes of its parts, all acknowledged."""
    visited: dict[str, Visited] = field(default_factory=dict)
    sessions: list[SessionReader] = field(default_factory=list)
    in_session: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Runs by tenant and session."""
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def run_ids(self) -> set[str]:
        return {reader.transcript.run_id for reader in self.readers}

    @property
    def finished(self) -> bool:
        """Whether every run that was started has been read to its end."""
        return all(reader.over for reader in self.readers)

    def sessions_are_whole(self) -> bool:
        """Whether every stream of a session has told of the end of each of its runs."""
        for session in self.sessions:
            for run_id in self.in_session.get((session.tenant.name, session.session), []):
                told = session.told.get(run_id, [])
                assert told, f"{session.session} of {session.tenant.name} knows nothing of {run_id}"
                assert isinstance(told[-1], str), f"{session.session} has {run_id} up to {told[-1]}"
        return True


class ContentLoad:
    """Runs of one kind after the other, until it is calm."""

    def __init__(self, content: Content, load: Load, *, ports: Sequence[int], seed: int) -> None:
        self._content = content
        self._load = load
        self._ports = ports
        self._rng = random.Random(seed)

    async def run(self, rates: Rates, tenants: Sequence[Tenant], *, calm: asyncio.Event) -> None:
        """Keeps runs of each kind going until it is calm. Returns when all of them have ended, and every client has
        everything.
        """
        content = self._content
        content.sessions = [
            SessionReader(session, tenant, self._ports, self._fresh()) for tenant in tenants for session in SESSIONS[:2]
        ]
        kinds: list[Callable[[str, Tenant], Awaitable[None]]] = [
            *[partial(self.authored_run, words=rates.words)] * rates.authors,
            *[partial(self.spoken_run, pieces=rates.words)] * rates.speakers,
            *[self.visit] * rates.patients,
        ]

        async def one_after_the_other(place: int, kind: Callable[[str, Tenant], Awaitable[None]]) -> None:
            turn = 0
            while not calm.is_set():
                await kind(f"content-{place}-{turn}", tenants[(place + turn) % len(tenants)])
                turn += 1

        async with asyncio.TaskGroup() as followers:
            following = [followers.create_task(reader.run()) for reader in content.sessions]
            async with asyncio.TaskGroup() as runs:
                for place, kind in enumerate(kinds):
                    runs.create_task(one_after_the_other(place, kind))
            async with asyncio.TaskGroup() as visits:
                for place, tenant in enumerate([*tenants, *tenants]):
                    visits.create_task(self.visit(f"calm-{place}", tenant, calm=True))
            await eventually(content.sessions_are_whole, within_s=60)
            for follower in following:
                follower.cancel()

    async def authored_run(self, name: str, tenant: Tenant, *, words: int) -> None:
        """A worker of ours writes three parts and an artifact."""
        number = self._rng.randrange(1000)
        task = Task(words, 30.0, large=number % 4 == 0, fails=int(number % 7 == 0))
        run_id = await self._started(name, tenant, agent="author", input=asdict(task))
        self._content.authored[run_id] = task
        await self._read(run_id, tenant)

    async def visit(self, name: str, tenant: Tenant, *, calm: bool = False) -> None:
        """A run that waits for a signal and then sleeps. The signal is sent until it is answered."""
        rng = self._fresh()
        visited = Visited(rest_s=rng.uniform(0.2, 2.0), within_s=rng.choice((1800.0, 1800.0, 1.0)), calm=calm)
        run_id = await self._started(
            name, tenant, agent="patient", input={"within_s": visited.within_s, "rest_s": visited.rest_s}
        )
        self._content.visited[run_id] = visited
        async with asyncio.TaskGroup() as both:
            both.create_task(self._read(run_id, tenant))
            await asyncio.sleep(rng.uniform(0, 1.5))
            word, data = rng.choice(("yes", "no")), {"comment": f"Grüße {rng.random()}", "n": [1, None]}
            body = {"name": word, "data": data, "id": f"{run_id}-1"}
            status, answer = await self._caller(tenant).post(f"{RUNS}/{run_id}/signal", body)
            assert status in (202, 409), answer
            if status == 202:
                visited.sent = [word, data, f"{run_id}-1"]
        status, result = await self._caller(tenant).get(f"{RUNS}/{run_id}/result")
        if status == 200:
            visited.told = result

    async def spoken_run(self, name: str, tenant: Tenant, *, pieces: int) -> None:
        """An external orchestrator writes two parts by offset, and repeats what was not answered."""
        run_id = tenant.run_id(name)
        rng, caller = self._fresh(), self._caller(tenant)
        session = rng.choice(SESSIONS)
        body = {"runId": run_id, "external": True, "leaseSeconds": 3600, "session": session}
        status, answer = await caller.post(RUNS, body)
        assert status == 202, answer
        self._note(run_id, tenant, session)
        orchestrator = _Speaker(run_id, caller, fence=answer["fence"])
        await orchestrator.append({"type": "RunStarted"}, if_seq=0)
        self._content.spoken[run_id] = []
        async with asyncio.TaskGroup() as both:
            both.create_task(self._read(run_id, tenant))
            for part_name in ("answer", "notes"):
                said = [f"{number}:{rng.randrange(10 ** rng.randrange(1, 40))};" for number in range(pieces)]
                await orchestrator.speak(part_name, said, rng=rng)
                self._content.spoken[run_id].append("".join(said).encode())
            await orchestrator.append({"type": "RunFinished"}, outcome="finished")

    async def _started(self, name: str, tenant: Tenant, **body: Any) -> str:
        run_id, session = tenant.run_id(name), self._rng.choice(SESSIONS)
        body |= {"runId": run_id, "session": session, "labels": {"kind": body["agent"]}}
        status, answer = await self._caller(tenant).post(RUNS, body)
        assert status == 202, answer
        self._note(run_id, tenant, session)
        return run_id

    def _note(self, run_id: str, tenant: Tenant, session: str) -> None:
        self._load.run_ids.append(run_id)
        self._content.in_session.setdefault((tenant.name, session), []).append(run_id)

    async def _read(self, run_id: str, tenant: Tenant) -> None:
        content = self._content
        reader = Reader(run_id, self._ports, self._fresh(), content.tally, header=lambda: tenant.header)
        content.readers.append(reader)
        await reader.run()

    def _caller(self, tenant: Tenant) -> Caller:
        return Caller(tenant, self._ports, self._fresh(), self._load)

    def _fresh(self) -> random.Random:
        return random.Random(self._rng.random())


class _Speaker:
    """An external orchestrator with parts. It knows after a lost answer whether its bytes were stored."""

    def __init__(self, run_id: str, caller: Caller, *, fence: int) -> None:
        self._run = f"{RUNS}/{run_id}"
        self._caller = caller
        self._fence = f"Runwire-Fence: {fence}\r\n"

    async def append(self, event: dict[str, str], *, if_seq: int | None = None, outcome: str | None = None) -> None:
        more = {key: value for key, value in (("ifSeq", if_seq), ("outcome", outcome)) if value is not None}
        status, answer = await self._caller.post(
            f"{self._run}/events", {"events": [event], **more}, headers=self._fence
        )
        # Nobody else writes to the run, so a repeat that comes too late means that it was stored.
        assert status == 200 or answer["code"] in ("seq_conflict", "run_closed"), answer

    async def speak(self, name: str, said: Sequence[str], *, rng: random.Random) -> None:
        status, answer = await self._caller.post(f"{self._run}/parts", {"name": name}, headers=self._fence)
        assert status == 201 or answer["code"] == "part_open", answer
        n = answer["part"]
        at = 0
        for piece in said:
            path = f"{self._run}/parts/{n}?offset={offset_text(1, at)}"
            status, answer = await self._caller.write(path, piece, headers=self._fence)
            at += len(piece)
            assert status == 204 or (answer["code"], answer["size"]) == ("part_offset_conflict", at), answer
            await asyncio.sleep(rng.uniform(0, 0.1))  # its own work
        closing = f"{self._fence}Stream-Closed: true\r\n"
        status, answer = await self._caller.write(f"{self._run}/parts/{n}", "", headers=closing)
        assert status == 204, answer


# ---------------------------------------------------------------------- what must be true of it all


async def check_content(content: Content, *, dsn: str, folder: Path) -> None:
    """Clients showed each byte once, every signal was heard once, every timer fired once. Nothing dangles or is left
    over. Raises AssertionError where it is not so; counts in `content`.
    """
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("SELECT run_id, state::text AS state FROM runs")
        states: dict[str, str] = {row["run_id"]: row["state"] for row in rows}
        stored = {run_id: await stored_events(connection, run_id) for run_id in content.run_ids}
        parts = await connection.fetch("SELECT * FROM parts ORDER BY run_id, n")
        for run_id, visited in content.visited.items():
            timers = await connection.fetchrow(TIMERS, run_id)
            assert timers is not None
            _check_visit(run_id, visited, timers, content.counts)
    finally:
        await connection.close()
    whole = await _check_bytes(content, parts, dsn=dsn, folder=folder)
    for reader in content.readers:
        transcript = reader.transcript
        assert transcript.events == stored[transcript.run_id], transcript.run_id
        expected = {n: data for (run_id, n), data in whole.items() if run_id == transcript.run_id}
        assert transcript.sealed == expected, transcript.run_id
        content.counts["bytes shown"] += sum(map(len, transcript.sealed.values()))
        content.counts["resets"] += transcript.resets
    for session in content.sessions:
        mine = content.in_session.get((session.tenant.name, session.session), [])
        for run_id in mine:
            told = session.told.get(run_id, [])
            assert told == [*range(1, len(stored[run_id]) + 1), states[run_id]], (session.session, run_id, told[-3:])
        assert set(session.told) == set(mine), session.session
        content.counts["runs on streams of a session"] += len(mine)


async def _check_bytes(
    content: Content, parts: Sequence[asyncpg.Record], *, dsn: str, folder: Path
) -> dict[tuple[str, int], bytes]:
    """The bytes of every part, which are those of its artifact, and what was written."""
    whole: dict[tuple[str, int], bytes] = {}
    async with Database(dsn) as database:
        plane = Plane(database, folder)
        for row in parts:
            run_id, n = row["run_id"], row["n"]
            content.counts["attempts at parts"] += row["attempt"]
            if row["state"] != "sealed":
                assert run_id not in content.spoken, f"{run_id}: part {n} is {row['state']}"
                continue
            task = content.authored.get(run_id)
            written = (
                content.spoken[run_id][n - 1] if task is None else text_of(run_id, row["name"], row["attempt"], task)
            )
            whole[run_id, n] = written
            if row["artifact"] is not None:
                assert await plane.bytes_of(run_id, row["artifact"]) == written, (run_id, n)
        for run_id, task in content.authored.items():
            reports = [one for one in await plane.reader.list(run_id) if one.name == "report"]
            for report in reports:
                assert await plane.bytes_of(run_id, report.n) == report_of(run_id, task), run_id
            content.counts["artifacts"] += len(reports)
            content.counts["parts"] += len(PARTS)
        await plane.check(collected=False)
        while await plane.collector().collect():
            pass
        await plane.check(collected=True)
    return whole


def _check_visit(run_id: str, visited: Visited, timers: asyncpg.Record, counts: Counter[str]) -> None:
    assert (timers["asked"], timers["rested"], timers["woken"]) == (1, 1, 1), f"{run_id}: {timers}"
    counts["timers fired"] += 1
    if visited.calm:
        late_s = float(timers["slept_s"]) - visited.rest_s
        assert -0.01 <= late_s <= CALM_S, f"{run_id}: {late_s} s late"
    assert visited.told is not None, f"{run_id} has no result"
    if visited.sent is not None:
        # A wait of a second may be over before the signal comes. Nobody takes it then.
        allowed = [[visited.sent]] if visited.within_s > 60 else [[visited.sent], [None]]
        assert visited.told in allowed, f"{run_id} heard {visited.told} and not {visited.sent}"
        counts["signals heard"] += visited.told == [visited.sent]
