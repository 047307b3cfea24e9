"""Faults around a walk: nodes that are not coroutines, commits of unknown outcome, databases that go away."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from orchestrate.agents_for_tests import Count, Gate, asking, fail, looping, one_node
from pipeline import Stages, raw, stages
from runwire import Agent, Context
from runwire.agents.golden import golden
from runwire.append import Change
from runwire.db import Row, Session
from runwire.errors import DatabaseUnavailable, StorageUnavailable
from runwire.model.event import RUN_FINISHED, RUN_STARTED, Source, debug_trace
from runwire.model.run import RunState
from runwire.orchestrate import StartRequest
from runwire.orchestrate.run_log import RunLog
from waiting import eventually


async def start(s: Stages, agent: str, **fields: Any) -> str:
    return (await s.control.start(StartRequest(agent=agent, **fields))).run_id


async def walk(s: Stages, agent: str) -> str:
    run_id = await start(s, agent)
    worker = s.worker()
    assert await worker.claim() == 1
    await eventually(lambda: worker.active == 0)
    return run_id


async def labels(s: Stages, run_id: str) -> list[str]:
    events = await s.events(run_id)
    assert [seq for seq, _, _ in events] == list(range(1, len(events) + 1))
    return [f"{type_} {label}" if label else type_ for _, type_, label in events]


# ------------------------------------------------------------------ nodes that break the rules


def raises_before_it_is_awaited(_ctx: Context, _state: Count) -> Any:
    raise ValueError("secret")


async def puts_what_is_no_json_into_its_state(_ctx: Context, state: Count) -> None:
    state.n = object()  # type: ignore[assignment]  # what a node of the wild does


async def puts_another_type_into_its_state(_ctx: Context, state: Count) -> None:
    state.n = "seven"  # type: ignore[assignment]


async def stops_the_interpreter(_ctx: Context, _state: Count) -> None:
    raise StopAsyncIteration


@pytest.mark.parametrize(
    ("node", "code"),
    [
        (raises_before_it_is_awaited, "exception"),
        (puts_what_is_no_json_into_its_state, "bad_state"),
        (puts_another_type_into_its_state, "bad_state"),
        (stops_the_interpreter, "exception"),
    ],
)
async def test_whatever_a_node_does_wrong_its_run_ends_with_a_bounded_code(
    database: str, node: Callable[[Context, Count], Awaitable[None]], code: str
) -> None:
    agent = Agent("wrong", start="Work", state=Count)
    agent.node(name="Work")(node)
    async with stages(database, agent) as s:
        run_id = await walk(s, "wrong")
        assert (await labels(s, run_id))[2:] == [f"DebugTrace error:{code}:work", "RunFinished"]
        assert (await s.control.view(run_id)).error_code == code


async def test_a_state_that_does_not_fit_is_not_what_the_next_try_or_the_recovery_gets(database: str) -> None:
    seen: list[int] = []

    async def work(ctx: Context, state: Count) -> None:
        seen.append(state.n)
        if ctx.attempt == 1:
            await puts_another_type_into_its_state(ctx, state)

    async with stages(database, one_node(work, retries=1)) as s:
        run_id = await walk(s, "one")
        assert seen == [0, 0]
        assert (await s.control.view(run_id)).state == "finished"


async def test_what_a_node_left_running_can_trace_no_more_once_it_has_ended(database: str) -> None:
    gate = Gate()
    left: list[asyncio.Task[None]] = []

    async def chatter(ctx: Context) -> None:
        while True:
            ctx.trace("left.behind")
            await asyncio.sleep(0)

    async def between() -> None:
        await gate.pass_through()

    agent = looping(30, between)
    started = agent.nodes["Add"].run

    async def add(ctx: Context, state: Count) -> Any:
        left.append(asyncio.create_task(chatter(ctx)))
        return await started(ctx, state)

    talking: Agent[Count] = Agent("talking", start="Add", state=Count)
    talking.node(name="Add", to="Check")(add)
    talking.node(name="Check", to=("Add", "END"))(agent.nodes["Check"].run)
    gate.open.set()
    async with stages(database, talking) as s:
        run_id = await walk(s, "talking")
        ends = await asyncio.gather(*left, return_exceptions=True)
        assert (await s.control.view(run_id)).state == "finished"
        assert (await labels(s, run_id)).count("NodeFinished Add") == 30
        assert {type(end) for end in ends} == {RuntimeError}  # each was told, none was merely cancelled


async def test_a_run_that_is_deleted_while_it_is_walked_stops_nobody_else(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    async with stages(database, one_node(lambda _ctx, _state: gate.pass_through())) as s:
        await start(s, "one")
        worker = s.worker()
        await worker.claim()
        await gate.entered.wait()
        await s.database.execute("DELETE FROM runs")
        gate.open.set()
        await eventually(lambda: worker.active == 0)
        other = await start(s, "one")
        assert await worker.claim() == 1
        await eventually(lambda: worker.active == 0)
        assert (await s.control.view(other)).state == "finished"
    import gc  # noqa: PLC0415  # a task nobody asked after complains when it is collected

    gc.collect()
    assert "never retrieved" not in caplog.text


# ------------------------------------------------------------------ commits of unknown outcome


@dataclass
class Breaks:
    """Every `nth` append is stored, and then the connection breaks before it is known. None breaks while it is 0."""

    nth: int = 0
    appends: int = 0
    broken: int = 0

    def wrap(self, session: Session) -> Session:
        return BreaksAfterCommit(session, self)


class BreaksAfterCommit(Session):
    def __init__(self, session: Session, breaks: Breaks) -> None:
        self._inner = session
        self._breaks = breaks

    async def fetch(self, sql: str, *args: object) -> list[Row]:
        rows = await self._inner.fetch(sql, *args)
        breaks = self._breaks
        if not rows or "INSERT INTO run_events" not in sql or not breaks.nth:
            return rows
        breaks.appends += 1
        if breaks.appends % breaks.nth == 0:
            breaks.broken += 1
            raise DatabaseUnavailable("the connection broke")
        return rows

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.mark.parametrize("nth", [1, 2, 3, 5])
async def test_a_run_has_each_event_once_though_commits_are_of_unknown_outcome(database: str, nth: int) -> None:
    breaks = Breaks()
    async with stages(database, looping(4), append_connections=1, sessions=breaks.wrap) as s:
        run_id = await start(s, "looping")
        breaks.nth = nth
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0, within_s=30)
        assert breaks.broken
        once = ["NodeStarted Add", "DebugTrace add.one", "NodeFinished Add", "NodeStarted Check", "NodeFinished Check"]
        assert await labels(s, run_id) == ["RunStarted", *once * 4, "RunFinished"]
        view = await s.control.view(run_id)
        assert (view.state, view.attempt) == ("finished", 1)
        assert (await s.control.state(run_id)).state == b'{"n":4,"seen":[]}'


async def owned(s: Stages, *, last_seq: int = 1) -> RunLog:
    fence = await s.started_run("r")
    return RunLog(s.log, "r", fence=fence, last_seq=last_seq)


@pytest.mark.parametrize("state", [RunState.FINISHED, RunState.FAILED, RunState.CANCELLED])
async def test_a_terminal_append_of_unknown_outcome_happened_once(database: str, state: RunState) -> None:
    breaks = Breaks()
    async with stages(database, append_connections=1, sessions=breaks.wrap) as s:
        log = await owned(s)
        breaks.nth = 1
        await log.append(debug_trace("bye"), RUN_FINISHED, change=Change(state))
        assert breaks.broken == 1
        assert log.last_seq == 3
        assert await labels(s, "r") == ["RunStarted", "DebugTrace bye", "RunFinished"]
        assert (await s.control.view("r")).state == state


async def test_waiting_of_unknown_outcome_happened_once(database: str) -> None:
    breaks = Breaks()
    async with stages(database, asking(), append_connections=1, sessions=breaks.wrap) as s:
        run_id = await start(s, "asking")
        breaks.nth = 2
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0, within_s=30)
        assert (await s.control.view(run_id)).state == "waiting"
        await s.control.signal(run_id, "approved")
        await worker.claim()
        await eventually(lambda: worker.active == 0, within_s=30)
        assert (await s.control.view(run_id)).state == "finished"
        assert (await labels(s, run_id)).count("NodeFinished Ask") == 1


# ------------------------------------------------------------------ the log's queue


async def test_a_caller_that_gives_up_waiting_harms_nobody_and_its_events_keep_their_place(database: str) -> None:
    async with stages(database, append_connections=1) as s:
        fence = await s.started_run("r")
        blocker = await raw(database)
        await blocker.execute("BEGIN")
        await blocker.execute("SELECT * FROM runs FOR UPDATE")
        appends = [
            asyncio.create_task(s.log.append("r", [debug_trace(f"t{n}")], fence=fence, source=Source.API))
            for n in range(6)
        ]
        await asyncio.sleep(0)
        for gone in appends[::2]:
            gone.cancel()
        await blocker.execute("ROLLBACK")
        answers = await asyncio.gather(*appends, return_exceptions=True)
        assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [True, False] * 3
        assert [label for _, _, label in await s.events("r")][1:] == [f"t{n}" for n in range(6)]
        await blocker.close()


async def test_an_append_the_driver_cannot_send_fails_alone(database: str) -> None:
    async with stages(database, append_connections=1) as s:
        fences = {f"r{n}": await s.started_run(f"r{n}") for n in range(3)}
        fences["r1"] = 2**70
        answers = await asyncio.gather(
            *(s.log.append(r, [debug_trace("x")], fence=fence, source=Source.API) for r, fence in fences.items()),
            return_exceptions=True,
        )
        assert [isinstance(answer, BaseException) for answer in answers] == [False, True, False]


async def test_a_log_that_is_closed_takes_nothing_and_had_stored_all_it_took(database: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")
        waiters = [s.log.submit("r", [debug_trace("x")], fence=fence, source=Source.API) for _ in range(50)]
        await s.log.__aexit__(None, None, None)
        assert [(await waiter).last_seq for waiter in waiters] == list(range(2, 52))
        with pytest.raises(StorageUnavailable):
            s.log.submit("r", [RUN_STARTED], fence=fence, source=Source.API)


# ------------------------------------------------------------------ workers and the database


async def test_claims_at_the_same_moment_are_disjoint_and_leave_nothing_out(database: str) -> None:
    gate = Gate()
    async with stages(database, one_node(lambda _ctx, _state: gate.pass_through(), timeout_s=60)) as s:
        run_ids = {await start(s, "one") for _ in range(30)}
        workers = [s.worker(worker_id=f"w{n}", worker_concurrency=10) for n in range(4)]
        for _ in range(3):
            await asyncio.gather(*(worker.claim() for worker in workers))
        held = [set(worker.held()) for worker in workers]
        assert sum(len(part) for part in held) == len(set().union(*held)) == 30
        assert set().union(*held) == run_ids
        assert all(len(part) <= 10 for part in held)
        gate.open.set()
        await eventually(lambda: not any(worker.active for worker in workers), within_s=20)
        fences = await s.database.fetch("SELECT DISTINCT fence, attempt, state::text FROM runs")
        assert [tuple(row) for row in fences] == [(1, 1, "finished")]


class Away:
    """A database that cannot be reached while `away` is set, for the statements of one who asks through it."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.away = False
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._database, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def call(*args: object) -> Any:
            if self.away:
                self.refused += 1
                raise DatabaseUnavailable("away")
            return await method(*args)

        return call


async def test_a_worker_outlasts_a_database_that_is_away_at_claim_heartbeat_and_release(database: str) -> None:
    gate = Gate()
    async with stages(database, one_node(lambda _ctx, _state: gate.pass_through(), timeout_s=60)) as s:
        away = Away(s.database)
        away.away = True
        worker = s.worker(database=away, worker_poll_s=0.02, lease_heartbeat_s=0.02, lease_s=5)
        loop = asyncio.create_task(worker.run())
        run_id = await start(s, "one")
        await eventually(lambda: away.refused > 3)  # at claim
        away.away = False
        await asyncio.wait_for(gate.entered.wait(), 5)
        refused, away.away = away.refused, True
        await eventually(lambda: away.refused > refused + 3)  # at heartbeat, and at claim
        away.away = False
        lease = "SELECT lease_until > now() + interval '4.5 s' FROM runs"
        await s.database.execute("UPDATE runs SET lease_until = now() + interval '1 s'")

        async def renewed() -> bool:
            return bool(await s.database.fetchval(lease))

        await eventually(renewed)
        away.away = True
        await worker.drain(within_s=0.01)
        await asyncio.wait_for(loop, 20)  # at release: the lease ends by itself
        assert gate.cancelled
        assert (await s.control.view(run_id)).state == "started"


async def test_a_heartbeat_that_fails_of_a_bug_is_the_workers_failure_and_not_silent(database: str) -> None:
    async with stages(database, golden) as s:
        worker = s.worker(lease_heartbeat_s=0.01, worker_poll_s=60)

        async def broken() -> None:
            raise RuntimeError("a bug")

        worker.heartbeat = broken  # type: ignore[method-assign]  # as a bug would
        with pytest.raises(RuntimeError, match="a bug"):
            await asyncio.wait_for(worker.run(), 5)


async def test_a_run_claimed_while_its_worker_begins_to_drain_is_handed_over_at_a_checkpoint(database: str) -> None:
    gate = Gate()
    async with stages(database, looping(3, gate.pass_through)) as s:
        run_id = await start(s, "looping")
        worker = s.worker(worker_poll_s=60)
        blocker = await raw(database)
        await blocker.execute("BEGIN")
        await blocker.execute("LOCK TABLE run_losses IN ACCESS EXCLUSIVE MODE")  # holds the claim up
        loop = asyncio.create_task(worker.run())

        async def claiming() -> bool:
            return bool(await blocker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await eventually(claiming)
        draining = asyncio.create_task(worker.drain(within_s=5))
        await asyncio.sleep(0)
        await blocker.execute("ROLLBACK")
        gate.open.set()
        await draining
        await asyncio.wait_for(loop, 10)
        assert not gate.cancelled
        assert (await s.database.fetchval("SELECT lease_until < now() FROM runs")) is True
        second = s.worker(worker_id="second")
        assert await second.claim() == 1
        await eventually(lambda: second.active == 0)
        assert (await s.control.view(run_id)).state == "finished"
        await blocker.close()


async def test_a_failing_node_of_one_run_leaves_the_others_alone(database: str) -> None:
    async with stages(database, one_node(fail), golden) as s:
        bad = [await start(s, "one") for _ in range(5)]
        good = [await start(s, "golden") for _ in range(5)]
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0, within_s=20)
        assert {(await s.control.view(run_id)).state for run_id in bad} == {"failed"}
        assert {(await s.control.view(run_id)).state for run_id in good} == {"finished"}
