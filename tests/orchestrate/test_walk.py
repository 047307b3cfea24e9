"""A worker walks a run's graph; each thing that can happen to a node has its place in the log."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from orchestrate.agents_for_tests import Count, Gate, asking, fail, looping, one_node
from pipeline import Stages, stages
from runwire import END, Agent, Context, RunState
from runwire.agents.golden import golden
from runwire.errors import SignalNotAwaited
from runwire.orchestrate import StartRequest, Worker
from waiting import eventually


async def start(s: Stages, agent: str, **fields: Any) -> str:
    return (await s.control.start(StartRequest(agent=agent, **fields))).run_id


async def settled(worker: Worker) -> None:
    await eventually(lambda: worker.active == 0)


async def walk(s: Stages, agent: str, **fields: Any) -> str:
    run_id = await start(s, agent, **fields)
    worker = s.worker()
    assert await worker.claim() == 1
    await settled(worker)
    return run_id


def labels(events: list[tuple[int, str, str | None]]) -> list[str]:
    assert [seq for seq, _, _ in events] == list(range(1, len(events) + 1))
    return [f"{type_} {label}" if label else type_ for _, type_, label in events]


async def test_golden_makes_exactly_its_thirteen_events(database: str) -> None:
    async with stages(database, golden) as s:
        run_id = await walk(s, "golden")
        expected = ["RunStarted"]
        for name in ("EnsureDevice", "Warmup", "OpenApp", "Ping", "Teardown"):
            expected += [f"NodeStarted {name}", f"NodeFinished {name}"]
        expected.insert(2, "DebugTrace ensureDevice.check")
        assert labels(await s.events(run_id)) == [*expected, "RunFinished"]
        view = await s.control.view(run_id)
        assert (view.state, view.outcome, view.attempt, view.last_seq) == ("finished", "finished", 1, 13)


async def test_a_loop_keeps_its_state_and_traces_come_before_their_nodes_end(database: str) -> None:
    async with stages(database, looping(3)) as s:
        run_id = await walk(s, "looping")
        once = ["NodeStarted Add", "DebugTrace add.one", "NodeFinished Add", "NodeStarted Check", "NodeFinished Check"]
        assert labels(await s.events(run_id)) == ["RunStarted", *once * 3, "RunFinished"]
        assert msgspec.json.decode((await s.control.state(run_id)).state or b"", type=Count).n == 3


async def test_a_trace_is_in_the_log_while_its_node_still_runs(database: str) -> None:
    gate = Gate()

    async def work(ctx: Context, _state: Count) -> None:
        ctx.trace("work.halfway")
        await gate.pass_through()

    async with stages(database, one_node(work)) as s:
        run_id = await start(s, "one")
        worker = s.worker()
        await worker.claim()

        async def traced() -> bool:
            return "DebugTrace work.halfway" in labels(await s.events(run_id))

        await eventually(traced)
        gate.open.set()
        await settled(worker)


async def test_a_timeout_cancels_the_node_and_fails_the_run_with_its_code(database: str) -> None:
    gate = Gate()
    async with stages(database, one_node(lambda _ctx, _state: gate.pass_through(), timeout_s=0.05)) as s:
        run_id = await walk(s, "one")
        assert gate.cancelled
        assert labels(await s.events(run_id))[2:] == ["DebugTrace error:timeout:work", "RunFinished"]
        assert (await s.control.view(run_id)).error_code == "timeout"


async def test_retries_are_visible_and_each_starts_from_the_checkpointed_state(database: str) -> None:
    async def work(ctx: Context, state: Count) -> None:
        state.n += 1
        assert state.n == 1
        if ctx.attempt < 3:
            await fail(ctx, state)

    async with stages(database, one_node(work, retries=2)) as s:
        run_id = await walk(s, "one")
        assert labels(await s.events(run_id)) == [
            "RunStarted",
            "NodeStarted Work",
            "DebugTrace error:no_luck:work",
            "DebugTrace retry:2:work",
            "DebugTrace error:no_luck:work",
            "DebugTrace retry:3:work",
            "NodeFinished Work",
            "RunFinished",
        ]


async def test_when_retries_are_used_up_the_run_fails_and_no_text_travels(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with stages(database, one_node(fail, retries=1)) as s:
        run_id = await walk(s, "one")
        assert labels(await s.events(run_id))[-2:] == ["DebugTrace error:no_luck:work", "RunFinished"]
        view = await s.control.view(run_id)
        assert (view.state, view.error_code) == ("failed", "no_luck")
    output = capsys.readouterr()
    assert "must not travel" not in output.out + output.err


async def test_an_unforeseen_exception_fails_the_run_with_a_bounded_code(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(_ctx: Context, _state: Count) -> None:
        raise ValueError("secret prompt")

    async with stages(database, one_node(work)) as s:
        run_id = await walk(s, "one")
        assert labels(await s.events(run_id))[-2:] == ["DebugTrace error:exception:work", "RunFinished"]
    output = capsys.readouterr()
    assert "secret prompt" not in output.out + output.err


async def test_on_error_leads_to_recovery_with_the_state_before_the_failure(database: str) -> None:
    async def work(ctx: Context, state: Count) -> None:
        state.seen.append("half done")
        await fail(ctx, state)

    async with stages(database, one_node(work, on_error=True)) as s:
        run_id = await walk(s, "one")
        assert labels(await s.events(run_id))[2:] == [
            "DebugTrace error:no_luck:work",
            "NodeStarted Recover",
            "NodeFinished Recover",
            "RunFinished",
        ]
        state = msgspec.json.decode((await s.control.state(run_id)).state or b"", type=Count)
        assert state.seen == ["recovered"]


async def test_an_exit_that_was_not_declared_fails_the_run(database: str) -> None:
    agent = Agent("astray", start="Go", state=Count)

    @agent.node(to=("Go", END))
    async def go(_ctx: Context, _state: Count) -> str:
        return "Elsewhere"

    async with stages(database, agent) as s:
        run_id = await walk(s, "astray")
        assert (await s.control.view(run_id)).error_code == "bad_exit"


async def test_cancel_reaches_a_running_node(database: str) -> None:
    gate = Gate()
    async with stages(database, one_node(lambda _ctx, _state: gate.pass_through())) as s:
        run_id = await start(s, "one")
        worker = s.worker()
        await worker.claim()
        await gate.entered.wait()
        await s.control.cancel(run_id)
        assert s.cancelled == [run_id]
        worker.cancel(run_id)
        await settled(worker)
        assert gate.cancelled
        assert labels(await s.events(run_id))[2:] == ["DebugTrace cancelRequested", "RunFinished"]
        assert (await s.control.cancel(run_id)).state == "cancelled"


async def test_cancel_is_found_by_the_heartbeat_when_its_hint_was_lost(database: str) -> None:
    gate = Gate()
    async with stages(database, one_node(lambda _ctx, _state: gate.pass_through())) as s:
        run_id = await start(s, "one")
        worker = s.worker()
        await worker.claim()
        await gate.entered.wait()
        await s.control.cancel(run_id)
        await worker.heartbeat()
        await settled(worker)
        assert (await s.control.view(run_id)).state == "cancelled"


async def test_cancel_before_the_claim_ends_the_run_before_any_node(database: str) -> None:
    async with stages(database, golden) as s:
        run_id = await start(s, "golden")
        await s.control.cancel(run_id)
        worker = s.worker()
        await worker.claim()
        await settled(worker)
        assert labels(await s.events(run_id)) == ["RunStarted", "DebugTrace cancelRequested", "RunFinished"]


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_cancel_never_sticks_a_waiting_run(database: str, moment: str) -> None:
    async with stages(database, asking()) as s:
        run_id = await start(s, "asking")
        worker = s.worker()
        await worker.claim()
        if moment == "before":  # it may fall between the append that says so and the wait
            await s.control.cancel(run_id)
        await settled(worker)
        if moment == "after":
            assert (await s.control.view(run_id)).state == "waiting"
            await s.control.cancel(run_id)
        await worker.claim()
        await settled(worker)
        assert labels(await s.events(run_id))[-2:] == ["DebugTrace cancelRequested", "RunFinished"]


async def test_a_node_that_ignores_its_cancellation_does_not_stick_the_run(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runwire.orchestrate.tries.STUBBORN_S", 0.05)
    release = asyncio.Event()

    async def work(_ctx: Context, _state: Count) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with stages(database, one_node(work, timeout_s=0.2)) as s:
        run_id = await start(s, "one")
        worker = s.worker()
        await worker.claim()
        await s.control.cancel(run_id)
        worker.cancel(run_id)
        await settled(worker)
        release.set()
        assert (await s.control.view(run_id)).state == "cancelled"


async def test_a_waiting_run_goes_on_when_it_is_signalled(database: str) -> None:
    async with stages(database, asking()) as s:
        run_id = await walk(s, "asking")
        assert (await s.control.view(run_id)).waiting_for == "approved"
        worker = s.worker()
        with pytest.raises(SignalNotAwaited):
            await s.control.signal(run_id, "something_else")
        assert await worker.claim() == 0
        await s.control.signal(run_id, "approved")
        assert await worker.claim() == 1
        await settled(worker)
        assert labels(await s.events(run_id)) == [
            "RunStarted",
            "NodeStarted Ask",
            "NodeFinished Ask",
            "NodeStarted Act",
            "NodeFinished Act",
            "RunFinished",
        ]
        view = await s.control.view(run_id)
        assert (view.state, view.attempt) == ("finished", 1)
        assert msgspec.json.decode((await s.control.state(run_id)).state or b"", type=Count).n == 11


async def test_the_time_a_run_waits_is_no_part_of_its_duration(database: str) -> None:
    async with stages(database, asking()) as s:
        run_id = await walk(s, "asking")
        # An hour ago it started and began to wait.
        await s.database.execute(
            "UPDATE runs SET created_at = created_at - $1::interval, started_at = started_at - $1::interval, "
            "waiting_since = waiting_since - $1::interval",
            timedelta(hours=1),
        )
        worker = s.worker()
        await s.control.signal(run_id, "approved")
        await worker.claim()
        await settled(worker)
        assert (await s.control.view(run_id)).state == "finished"
        assert 3600 <= await s.database.fetchval("SELECT waited_s FROM runs") < 3700
        assert s.metrics.run_duration["finished"].count == 1
        assert 0 < s.metrics.run_duration["finished"].sum < 600


async def test_a_signal_that_comes_before_its_run_waits_is_kept(database: str) -> None:
    async with stages(database, asking()) as s:
        run_id = await start(s, "asking")
        await s.control.signal(run_id, "approved")
        worker = s.worker()
        for _ in range(2):
            assert await worker.claim() == 1
            await settled(worker)
        assert (await s.control.view(run_id)).state == "finished"


async def test_a_run_goes_on_from_its_checkpoint_when_its_worker_is_gone(database: str) -> None:
    gate = Gate()

    async def between() -> None:
        await gate.pass_through()

    async with stages(database, looping(2, between)) as s:
        run_id = await start(s, "looping")
        lost = s.worker(worker_id="lost")
        await lost.claim()
        await gate.entered.wait()

        async def traced() -> bool:
            return "DebugTrace add.one" in labels(await s.events(run_id))

        await eventually(traced)  # nobody waits for a trace
        await s.database.execute("UPDATE runs SET lease_until = now() - interval '1 s'")
        gate.entered.clear()
        # The lost one is still in node Add, and does not know.
        second = s.worker(worker_id="second")
        assert await second.claim() == 1
        await gate.entered.wait()
        gate.open.set()
        await settled(second)
        await settled(lost)
        told = labels(await s.events(run_id))
        assert told[:4] == ["RunStarted", "NodeStarted Add", "DebugTrace add.one", "DebugTrace orchestrator.resumed"]
        assert told[-1] == "RunFinished"
        assert told.count("NodeFinished Add") == 2
        view = await s.control.view(run_id)
        assert (view.state, view.attempt) == ("finished", 2)


async def test_a_worker_that_lost_its_lease_appends_nothing_more_and_stops_its_node(database: str) -> None:
    gate = Gate()
    async with stages(database, one_node(lambda _ctx, _state: gate.pass_through())) as s:
        run_id = await start(s, "one")
        lost = s.worker(worker_id="lost")
        await lost.claim()
        await gate.entered.wait()
        await s.database.execute("UPDATE runs SET fence = fence + 1")
        before = await s.events(run_id)
        with capture_logs() as lines:
            await lost.heartbeat()
            await settled(lost)
        assert [(line["event"], line["run_id"]) for line in lines] == [("lease_lost", run_id)]
        assert gate.cancelled
        assert await s.events(run_id) == before
        assert (await s.control.view(run_id)).state == "started"


async def test_a_draining_worker_hands_its_runs_over_at_the_next_checkpoint(database: str) -> None:
    gate = Gate()
    async with stages(database, looping(3, gate.pass_through)) as s:
        run_id = await start(s, "looping")
        first = s.worker(worker_id="first")
        loop = asyncio.create_task(first.run())
        await gate.entered.wait()
        draining = asyncio.create_task(first.drain(within_s=5))
        await asyncio.sleep(0)
        gate.open.set()
        await draining
        await loop
        told = labels(await s.events(run_id))
        assert told[-1] == "NodeFinished Add"
        second = s.worker(worker_id="second")
        assert await second.claim() == 1
        await settled(second)
        told = labels(await s.events(run_id))
        assert told.count("DebugTrace orchestrator.resumed") == 1
        assert told.count("NodeFinished Add") == 3
        assert told[-1] == "RunFinished"


async def test_a_node_that_outlasts_the_drain_is_cut_and_started_again_elsewhere(database: str) -> None:
    gate = Gate()
    async with stages(database, one_node(lambda _ctx, _state: gate.pass_through())) as s:
        run_id = await start(s, "one")
        first = s.worker(worker_id="first")
        loop = asyncio.create_task(first.run())
        await gate.entered.wait()
        await first.drain(within_s=0.01)
        await loop
        assert gate.cancelled
        assert s.claimable == ["one", "one"]
        gate.open.set()
        second = s.worker(worker_id="second")
        assert await second.claim() == 1
        await settled(second)
        assert labels(await s.events(run_id)) == [
            "RunStarted",
            "NodeStarted Work",
            "DebugTrace orchestrator.resumed",
            "NodeStarted Work",
            "NodeFinished Work",
            "RunFinished",
        ]


async def test_a_node_that_a_deploy_took_away_fails_the_run(database: str) -> None:
    async with stages(database, looping(2)) as s:
        run_id = await start(s, "looping")
        await s.database.execute(
            "UPDATE runs SET state = 'started', last_seq = 1, started_at = now(), lease_until = now() - interval '1 s'"
        )
        await s.database.execute(
            "INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source) "
            "SELECT run_day, run_id, 1, 0, 'RunStarted', 'worker' FROM runs"
        )
        await s.database.execute("INSERT INTO run_checkpoints SELECT run_id, 1, 'Old', 'Gone', '{}' FROM runs")
        worker = s.worker()
        await worker.claim()
        await settled(worker)
        assert (await s.control.view(run_id)).error_code == "unknown_node"


async def test_the_database_going_away_in_the_middle_loses_nothing(database: str) -> None:
    gate = Gate()
    async with stages(database, looping(2, gate.pass_through)) as s:
        run_id = await start(s, "looping")
        worker = s.worker()
        await worker.claim()
        await gate.entered.wait()
        await s.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        gate.open.set()
        await settled(worker)
        assert labels(await s.events(run_id))[-1] == "RunFinished"
        assert labels(await s.events(run_id)).count("NodeFinished Add") == 2


async def test_new_runs_are_claimed_at_once_whatever_has_finished_before(database: str) -> None:
    async with stages(database, golden) as s:
        await s.database.execute(
            "INSERT INTO runs (run_id, agent, state, last_seq, started_at, finished_at, request_hash, input) "
            "SELECT 'old-' || n, 'golden', 'finished', 13, now(), now(), '', '' FROM generate_series(1, 10000) AS n"
        )
        await s.database.execute("ANALYZE runs")
        run_id = await walk(s, "golden")
        assert (await s.control.view(run_id)).state == "finished"
        from runwire.db import load_sql  # noqa: PLC0415

        claim = load_sql("runwire.orchestrate", "orchestrate.sql")["claim"]
        async with s.database.transaction() as tx:
            await tx.execute("PREPARE c (text[], int, text, real) AS " + claim)
            plan = "\n".join(row[0] for row in await tx.fetch("EXPLAIN EXECUTE c ('{golden}', 10, 'w', 30)"))
        assert "Seq Scan on runs" not in plan


def test_the_end_is_reached_by_name() -> None:
    assert RunState.FINISHED.terminal
