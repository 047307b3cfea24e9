"""A run started beside a worker with room is that worker's from the beginning: nobody has to find it first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from orchestrate.agents_for_tests import Count, Gate, one_node
from pipeline import Stages, stages
from runwire import Context
from runwire.agents.golden import golden
from runwire.db import Row
from runwire.errors import DatabaseUnavailable
from runwire.orchestrate import RunControl, StartRequest, Worker
from waiting import eventually

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_allowed: ContextVar[str] = ContextVar("_allowed", default="by nobody")


class Counted:
    """A database that counts the claims it is asked for, and can lose the answer to a start."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.claims = 0
        self.lose_answers = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        self.claims += "orphaned" in sql
        rows: list[Row] = await self._database.fetch(sql, *args)
        return rows

    async def fetchrow(self, sql: str, *args: object) -> Row | None:
        row: Row | None = await self._database.fetchrow(sql, *args)
        if "INSERT INTO runs" in sql and self.lose_answers:
            self.lose_answers -= 1
            raise DatabaseUnavailable("the connection broke")
        return row


@asynccontextmanager
async def seated(s: Stages, **settings: Any) -> AsyncIterator[tuple[RunControl, Worker, Counted]]:
    """A control beside a worker whose loop runs and has found nothing to claim."""
    database = Counted(s.database)
    worker = s.worker(database=database, worker_poll_s=60, **settings)
    control = RunControl(
        database,  # type: ignore[arg-type]
        s.agents,
        on_claimable=lambda _agent: worker.wake(),
        on_cancel=worker.cancel,
        seat=worker.seat,
    )
    loop = asyncio.create_task(worker.run())
    await eventually(lambda: database.claims > 0)
    await eventually(lambda: (seat := worker.seat("probe", s.agents.names[0])) is not None and _given_back(seat))
    try:
        yield control, worker, database
    finally:
        await worker.drain(within_s=5)
        await asyncio.wait_for(loop, 10)


def _given_back(seat: Any) -> bool:
    with seat:
        return True


async def finished(s: Stages, run_id: str) -> None:
    async def over() -> bool:
        return (await s.control.view(run_id)).state.terminal

    await eventually(over)
    assert (await s.control.view(run_id)).state == "finished"


async def test_it_is_walked_without_a_claim(database: str) -> None:
    async with stages(database, golden) as s, seated(s) as (control, _worker, counted):
        claims = counted.claims
        run_id = (await control.start(StartRequest(traceparent=TRACE, sampled=True))).run_id
        await finished(s, run_id)
        assert counted.claims == claims
        assert len(await s.events(run_id)) == 13
        row = await s.database.fetchrow("SELECT fence, attempt, attempt_span, lease_s FROM runs")
        assert row is not None
        assert (row["fence"], row["attempt"], len(row["attempt_span"]), row["lease_s"]) == (1, 1, 16, 30)


async def test_it_is_stored_as_a_claim_would_have_left_it(database: str) -> None:
    gate = Gate()
    agent = one_node(lambda _ctx, _state: gate.pass_through(), timeout_s=60)
    held = (
        "SELECT fence, attempt, lease_owner, lease_s, state::text, attempt_span IS NULL, attempt_at IS NULL, "
        "lease_until > now() + interval '20 s' FROM runs WHERE run_id = $1"
    )
    async with stages(database, agent) as s, seated(s, worker_id="w", lease_s=30) as (control, _worker, _counted):
        async with stages(database, agent) as other:
            claimed = (await other.control.start(StartRequest(agent="one"))).run_id
            second = other.worker(worker_id="w", lease_s=30)
            assert await second.claim() == 1
            await gate.entered.wait()
            gate.entered.clear()
            started = (await control.start(StartRequest(agent="one"))).run_id
            await gate.entered.wait()
            found = [tuple(await s.database.fetchrow(held, run_id) or ()) for run_id in (claimed, started)]
            gate.open.set()
            await eventually(lambda: second.active == 0)
        assert found[0] == found[1]
        await finished(s, started)


async def test_who_starts_a_run_while_others_wait_gets_in_line(database: str) -> None:
    gate = Gate()
    agent = one_node(lambda _ctx, _state: gate.pass_through(), timeout_s=60)
    async with stages(database, agent) as s, seated(s, worker_concurrency=2) as (control, worker, _counted):
        runs = [(await control.start(StartRequest(agent="one"))).run_id for _ in range(4)]
        assert worker.seat("next", "one") is None
        order = await s.database.fetch("SELECT run_id FROM runs WHERE fence = 1")
        assert {row["run_id"] for row in order} == set(runs[:2])
        gate.open.set()
        for run_id in runs:
            await finished(s, run_id)


async def test_there_is_no_seat_for_an_agent_the_worker_has_not_nor_while_it_drains(database: str) -> None:
    async with stages(database, golden) as s:
        async with seated(s) as (_control, worker, _counted):
            assert worker.seat("r", "elsewhere") is None
        assert worker.seat("r", "golden") is None
        assert s.worker().seat("r", "golden") is None  # its loop has not begun


async def test_a_start_whose_answer_is_lost_is_found_and_walked_at_once(database: str) -> None:
    async with stages(database, golden) as s, seated(s) as (control, _worker, counted):
        counted.lose_answers = 1
        with pytest.raises(DatabaseUnavailable):
            await control.start(StartRequest(run_id="r"))
        await finished(s, "r")  # though nobody polls for a minute, and a lease lasts half of one
        again = await control.start(StartRequest(run_id="r"))
        assert (again.run_id, again.created) == ("r", False)
        view = await s.control.view("r")
        assert (view.attempt, view.last_seq) == (2, 13)


async def test_a_start_that_makes_nothing_leaves_its_room_to_others(database: str) -> None:
    async with stages(database, golden) as s, seated(s, worker_concurrency=1) as (control, worker, _counted):
        await control.start(StartRequest(run_id="r"))
        await finished(s, "r")
        await eventually(lambda: worker.active == 0)
        await eventually(lambda: (seat := worker.seat("probe", "golden")) is not None and _given_back(seat))
        for _ in range(3):
            assert (await control.start(StartRequest(run_id="r"))).created is False
        await finished(s, (await control.start(StartRequest())).run_id)


async def test_a_run_is_walked_in_the_workers_context_not_in_that_of_its_request(database: str) -> None:
    seen: list[str] = []

    async def work(_ctx: Context, _state: Count) -> None:
        seen.append(_allowed.get())

    async with stages(database, one_node(work)) as s:
        _allowed.set("by the worker")
        async with seated(s) as (control, _worker, _counted):
            _allowed.set("by a request")
            await finished(s, (await control.start(StartRequest(agent="one"))).run_id)
    assert seen == ["by the worker"]


@pytest.mark.parametrize("walking", [False, True])
async def test_a_run_whose_start_is_under_way_when_its_worker_stops_is_handed_over(
    database: str, walking: bool
) -> None:
    gate = Gate()
    agent = one_node(lambda _ctx, _state: gate.pass_through(), timeout_s=60)
    async with stages(database, agent) as s:
        async with seated(s) as (control, worker, counted):
            if walking:
                await control.start(StartRequest(agent="one"))
                await gate.entered.wait()
            stored, go_on = asyncio.Event(), asyncio.Event()
            fetchrow = counted.fetchrow

            async def held_up(sql: str, *args: object) -> Row | None:
                row = await fetchrow(sql, *args)
                stored.set()
                await go_on.wait()
                return row

            counted.fetchrow = held_up  # type: ignore[method-assign]  # the answer takes its time
            starting = asyncio.create_task(control.start(StartRequest(agent="one", run_id="r")))
            await stored.wait()
            await worker.drain(within_s=0.01)
            go_on.set()
            await starting
        assert await s.database.fetchval("SELECT lease_until < now() FROM runs WHERE run_id = 'r'")
        gate.open.set()
        second = s.worker(worker_id="second")
        assert await second.claim() == 1 + walking
        await finished(s, "r")
        await eventually(lambda: second.active == 0)
