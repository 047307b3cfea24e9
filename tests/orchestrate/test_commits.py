"""One commit per step: the end of a node, its checkpoint and the start of the next node are stored together."""

from __future__ import annotations

import asyncio

import pytest

from orchestrate.agents_for_tests import Count, Gate, asking, fail, looping
from pipeline import Stages, raw, stages
from runwire import Agent, Context
from runwire.agents.golden import golden
from runwire.append import Change, Checkpoint
from runwire.errors import FenceStale
from runwire.model.event import debug_trace, node_finished, node_started
from runwire.model.run import RunState
from runwire.orchestrate import StartRequest
from runwire.orchestrate.run_log import RunLog
from waiting import eventually


async def begin(s: Stages, agent: str) -> str:
    run_id = (await s.control.start(StartRequest(agent=agent))).run_id
    assert await s.worker().claim() == 1
    return run_id


async def walked(s: Stages, agent: str) -> str:
    run_id = (await s.control.start(StartRequest(agent=agent))).run_id
    worker = s.worker()
    assert await worker.claim() == 1
    await eventually(lambda: worker.active == 0)
    return run_id


async def commits(s: Stages, run_id: str) -> list[list[str]]:
    """The labels of the run's events, a list for each transaction that stored some."""
    rows = await s.database.fetch(
        "SELECT xmin::text AS tx, type::text AS type, coalesce(name, fn) AS label FROM run_events "
        "WHERE run_id = $1 ORDER BY seq",
        run_id,
    )
    stored: list[list[str]] = []
    previous = None
    for row in rows:
        if row["tx"] != previous:
            stored.append([])
        previous = row["tx"]
        stored[-1].append(f"{row['type']} {row['label']}" if row["label"] else row["type"])
    return stored


async def test_a_golden_run_takes_six_commits(database: str) -> None:
    async with stages(database, golden) as s:
        assert await commits(s, await walked(s, "golden")) == [
            ["RunStarted", "NodeStarted EnsureDevice"],
            ["DebugTrace ensureDevice.check", "NodeFinished EnsureDevice", "NodeStarted Warmup"],
            ["NodeFinished Warmup", "NodeStarted OpenApp"],
            ["NodeFinished OpenApp", "NodeStarted Ping"],
            ["NodeFinished Ping", "NodeStarted Teardown"],
            ["NodeFinished Teardown", "RunFinished"],
        ]


async def test_the_seq_of_a_checkpoint_is_that_of_its_nodes_end(database: str) -> None:
    gate = Gate()
    agent = looping(1)
    held = Agent[Count]("held", start="Add", state=Count)
    held.node(name="Add", to="Check")(agent.nodes["Add"].run)

    @held.node(name="Check")
    async def check(_ctx: Context, _state: Count) -> None:
        await gate.pass_through()

    async with stages(database, held) as s:
        run_id = await begin(s, "held")
        await gate.entered.wait()
        state = await s.control.state(run_id)
        assert (state.seq, (await s.control.view(run_id)).last_seq) == (4, 5)
        gate.open.set()

        async def over() -> bool:
            return (await s.control.view(run_id)).state.terminal

        await eventually(over)
        assert (await s.control.state(run_id)).seq == 6


async def test_a_node_that_waits_ends_in_the_commit_of_its_waiting(database: str) -> None:
    async with stages(database, asking()) as s:
        run_id = await walked(s, "asking")
        assert await commits(s, run_id) == [["RunStarted", "NodeStarted Ask"], ["NodeFinished Ask"]]
        assert (await s.control.view(run_id)).state is RunState.WAITING


async def test_a_cancel_found_with_the_commit_that_starts_a_node_ends_the_run_before_the_node_runs(
    database: str,
) -> None:
    ran: list[str] = []
    agent: Agent[Count] = Agent("two", start="First", state=Count)

    @agent.node(to="Second")
    async def first(ctx: Context, _state: Count) -> None:
        ran.append("First")
        await s.control.cancel(ctx.run_id)  # nobody tells the worker

    @agent.node()
    async def second(_ctx: Context, _state: Count) -> None:
        ran.append("Second")

    async with stages(database, agent) as s:
        run_id = await walked(s, "two")
        assert await commits(s, run_id) == [
            ["RunStarted", "NodeStarted First"],
            ["NodeFinished First", "NodeStarted Second"],
            ["DebugTrace cancelRequested", "RunFinished"],
        ]
        assert ran == ["First"]
        assert (await s.control.view(run_id)).state is RunState.CANCELLED


async def test_a_cancel_known_before_the_next_node_starts_it_in_no_log(database: str) -> None:
    agent: Agent[Count] = Agent("two", start="First", state=Count)

    @agent.node(to="Second")
    async def first(ctx: Context, _state: Count) -> None:
        await s.control.cancel(ctx.run_id)
        asyncio.get_running_loop().call_soon(worker.cancel, ctx.run_id)  # it has ended by then

    @agent.node()
    async def second(_ctx: Context, _state: Count) -> None:
        raise AssertionError

    async with stages(database, agent) as s:
        run_id = (await s.control.start(StartRequest(agent="two"))).run_id
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        assert await commits(s, run_id) == [
            ["RunStarted", "NodeStarted First"],
            ["NodeFinished First", "DebugTrace cancelRequested", "RunFinished"],
        ]


async def test_the_node_in_flight_at_a_crash_is_started_again_in_the_log_too(database: str) -> None:
    gate = Gate()
    agent: Agent[Count] = Agent("two", start="First", state=Count)

    @agent.node(to="Second")
    async def first(_ctx: Context, state: Count) -> None:
        state.n += 1

    @agent.node()
    async def second(_ctx: Context, state: Count) -> None:
        assert state.n == 1
        await gate.pass_through()

    async with stages(database, agent) as s:
        run_id = await begin(s, "two")
        await gate.entered.wait()
        await s.database.execute("UPDATE runs SET lease_until = now() - interval '1 s'")
        gate.entered.clear()
        second_worker = s.worker(worker_id="second")
        assert await second_worker.claim() == 1
        await gate.entered.wait()
        gate.open.set()
        await eventually(lambda: second_worker.active == 0)
        assert await commits(s, run_id) == [
            ["RunStarted", "NodeStarted First"],
            ["NodeFinished First", "NodeStarted Second"],
            ["DebugTrace orchestrator.resumed", "NodeStarted Second"],
            ["NodeFinished Second", "RunFinished"],
        ]


async def test_a_recovery_starts_in_the_commit_of_the_failure(database: str) -> None:
    agent: Agent[Count] = Agent("rescued", start="Work", state=Count)
    agent.node(name="Work", on_error="Recover")(fail)

    @agent.node()
    async def recover(_ctx: Context, _state: Count) -> None: ...

    async with stages(database, agent) as s:
        assert await commits(s, await walked(s, "rescued")) == [
            ["RunStarted", "NodeStarted Work"],
            ["DebugTrace error:no_luck:work", "NodeStarted Recover"],
            ["NodeFinished Recover", "RunFinished"],
        ]


async def test_nothing_is_told_of_what_is_held_before_it_is_stored(database: str) -> None:
    told: list[str] = []
    async with stages(database) as s:
        fence = await s.started_run("r")
        log = RunLog(s.log, "r", fence=fence, last_seq=1)
        log.hold(node_finished("A"), checkpoint=Checkpoint("A", "B", b"{}"), stored=lambda: told.append("A"))
        blocker = await raw(database)
        await blocker.execute("BEGIN")
        await blocker.execute("SELECT * FROM runs FOR UPDATE")
        storing = asyncio.create_task(log.append(node_started("B")))

        async def stored_or_blocked() -> bool:
            return bool(await blocker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await eventually(stored_or_blocked)
        assert told == []
        await blocker.execute("ROLLBACK")
        await storing
        assert told == ["A"]
        await blocker.close()


async def test_what_is_held_is_lost_with_the_fence_and_told_of_by_nobody(database: str) -> None:
    told: list[str] = []
    async with stages(database) as s:
        fence = await s.started_run("r")
        log = RunLog(s.log, "r", fence=fence + 1, last_seq=1)
        log.hold(node_finished("A"), stored=lambda: told.append("A"))
        with pytest.raises(FenceStale):
            await log.append(node_started("B"))
        assert told == []
        assert len(await s.events("r")) == 1


async def test_two_changes_of_a_run_are_two_commits(database: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")
        log = RunLog(s.log, "r", fence=fence, last_seq=1)
        log.hold(node_finished("A"), change=Change(RunState.WAITING, waiting_for="x"))
        await log.append(debug_trace("woken"), change=Change(RunState.STARTED))
        assert await commits(s, "r") == [["RunStarted"], ["NodeFinished A"], ["DebugTrace woken"]]
        assert log.last_seq == 3
