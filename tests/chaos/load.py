"""The load during faults: golden runs, and external orchestrators that append in batches."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos.tenants import RUNS, BearerShown, Tenant, TicketShown
from crash.subscriber import Credentials, Moods, Subscriber, Tally
from crash.wire import sent

ANSWER_S = 20.0
WATCHERS = Moods(drop=0.15, reread=0.05, pause_s=0.4)


@dataclass(slots=True)
class Load:
    """Everything that was asked for, and what was answered."""

    tally: Tally = field(default_factory=Tally)
    subscribers: list[Subscriber] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)
    acknowledged: dict[str, list[str]] = field(default_factory=dict)
    """Of each external run the fn of every event whose append was answered, in order."""
    unanswered: int = 0
    refused: int = 0
    tabs: list[TicketShown] = field(default_factory=list)
    archived: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Runs whose events may be in cold storage by the end, with what the API says of them then."""

    @property
    def tickets(self) -> int:
        """How many were asked for and given."""
        return sum(tab.renewed for tab in self.tabs)

    @property
    def events_acknowledged(self) -> int:
        return sum(len(labels) for labels in self.acknowledged.values())


class Caller:
    """Calls the API until it answers: any of its ports, as behind a load balancer. No tenant: nobody asks for one."""

    def __init__(self, tenant: Tenant | None, ports: Sequence[int], rng: random.Random, load: Load) -> None:
        self._tenant = tenant
        self._ports = ports
        self._rng = rng
        self._load = load

    async def post(self, path: str, body: object, *, headers: str = "") -> tuple[int, dict[str, Any]]:
        """The first answer that is no "not now". Every repeated request must be safe to repeat."""
        text = json.dumps(body)
        headers += f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n"
        return await self._call(f"POST {path}", headers, text)

    async def get(self, path: str) -> tuple[int, Any]:
        """As `post`."""
        return await self._call(f"GET {path}", "", "")

    async def write(self, path: str, text: str, *, headers: str = "") -> tuple[int, dict[str, Any]]:
        """As `post`, with content, which is ASCII. An answer without a body is an empty object."""
        return await self._call(f"POST {path}", f"{headers}Content-Length: {len(text)}\r\n", text)

    async def _call(self, what: str, headers: str, text: str) -> tuple[int, dict[str, Any]]:
        while True:
            credential = self._tenant.header if self._tenant else ""
            request = f"{what} HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n{credential}{headers}\r\n{text}"
            try:
                async with asyncio.timeout(ANSWER_S), sent(self._rng.choice(self._ports), request) as (head, reader):
                    length = 0 if head.status == 204 else int(head.headers["content-length"])
                    answer = json.loads(await reader.readexactly(length)) if length else {}
            except (OSError, EOFError, TimeoutError):
                self._load.unanswered += 1
            else:
                assert head.status != 500, f"{what}: {answer}"
                if head.status not in (429, 503):
                    return head.status, answer
                self._load.refused += 1
            await asyncio.sleep(self._rng.uniform(0.05, 0.4))


async def golden_run(
    name: str, *, ports: Sequence[int], seed: int, load: Load, delay_ms: int, tenant: Tenant | None = None
) -> None:
    """Starts a golden run and follows it to its end."""
    rng = random.Random(seed)
    run_id = tenant.run_id(name) if tenant else name
    body = {"runId": run_id, "input": {"delay_ms": delay_ms}}
    status, answer = await Caller(tenant, ports, rng, load).post(RUNS, body)
    assert status == 202, answer
    await followed(run_id, tenant=tenant, ports=ports, rng=rng, load=load)


async def troubled_run(name: str, way: str, *, ports: Sequence[int], seed: int, load: Load, tenant: Tenant) -> None:
    """Starts a run whose node misbehaves, and follows it to its end, whatever that is."""
    rng = random.Random(seed)
    run_id = tenant.run_id(name)
    body = {"agent": "trouble", "runId": run_id, "input": {"way": way}}
    status, answer = await Caller(tenant, ports, rng, load).post(RUNS, body)
    assert status == 202, answer
    await followed(run_id, tenant=tenant, ports=ports, rng=rng, load=load, may_end=frozenset({"failed", "finished"}))


async def followed(
    run_id: str,
    *,
    tenant: Tenant | None,
    ports: Sequence[int],
    rng: random.Random,
    load: Load,
    may_end: frozenset[str] = frozenset({"finished"}),
) -> None:
    """Follows the run as a program does, or as a page."""
    credentials: Credentials | None = BearerShown(tenant) if tenant else None
    if tenant and rng.random() < 0.5:
        credentials = tab = TicketShown(run_id, tenant, ports, rng)
        load.tabs.append(tab)
    subscriber = Subscriber(run_id, ports, rng, load.tally, WATCHERS, credentials, may_end)
    load.subscribers.append(subscriber)
    load.run_ids.append(run_id)
    await subscriber.run()


async def external_run(
    name: str,
    *,
    ports: Sequence[int],
    seed: int,
    load: Load,
    events: int,
    batch: int,
    pause_s: float,
    tenant: Tenant | None = None,
) -> None:
    """Starts a run, appends `events` to it in batches with `ifSeq`, ends it, and follows it meanwhile."""
    rng = random.Random(seed)
    run_id = tenant.run_id(name) if tenant else name
    caller = Caller(tenant, ports, rng, load)
    status, answer = await caller.post(RUNS, {"runId": run_id, "external": True, "leaseSeconds": 600})
    assert status == 202, answer
    async with asyncio.TaskGroup() as both:
        both.create_task(followed(run_id, tenant=tenant, ports=ports, rng=random.Random(seed + 1), load=load))
        both.create_task(
            _Orchestrator(run_id, caller, fence=answer["fence"], load=load).run(
                events=events, batch=batch, pause_s=pause_s, rng=rng
            )
        )


class _Orchestrator:
    """Appends what it has not appended yet, and knows after a lost answer whether the batch was stored."""

    def __init__(self, run_id: str, caller: Caller, *, fence: int, load: Load) -> None:
        self._path = f"{RUNS}/{run_id}/events"
        self._caller = caller
        self._headers = f"Runwire-Fence: {fence}\r\n"
        self._at = 0
        self._acknowledged = load.acknowledged.setdefault(run_id, [])

    async def run(self, *, events: int, batch: int, pause_s: float, rng: random.Random) -> None:
        await self._append([{"type": "RunStarted"}])
        for first in range(0, events, batch):
            labels = [f"step.n{number}" for number in range(first, min(first + batch, events))]
            await self._append([{"type": "DebugTrace", "fn": label} for label in labels])
            self._acknowledged += labels
            await asyncio.sleep(rng.uniform(0, 2 * pause_s))  # its own work between two batches
        await self._append([{"type": "RunFinished"}], outcome="finished")

    async def _append(self, events: list[dict[str, str]], **outcome: str) -> None:
        body = {"events": events, "ifSeq": self._at, **outcome}
        status, answer = await self._caller.post(self._path, body, headers=self._headers)
        stored_at = self._at + len(events)
        if status == 409 and answer["code"] in ("seq_conflict", "run_closed"):
            # An earlier try was stored and its answer lost: nothing else may have moved the log.
            assert answer["lastSeq"] == stored_at, answer
        else:
            assert status == 200, answer
            assert answer["lastSeq"] == stored_at, answer
        self._at = stored_at
