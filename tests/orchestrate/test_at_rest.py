"""Runs that nobody walks: cancelled ones end at once, whoever is asked; signals live no longer than their run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from functools import partial

import pytest

from orchestrate.agents_for_tests import asking, looping
from pipeline import Stages, raw, stages
from runwire.append import AtRest, Change
from runwire.db import Transaction, load_sql
from runwire.db.tenancy import check_isolation
from runwire.errors import FenceStale, RunClosed, RunNotFound, TooManySignals
from runwire.model.event import RUN_STARTED, Source
from runwire.model.run import RunState
from runwire.orchestrate import Cancelling, RunControl, StartRequest, Worker
from waiting import eventually

ENDS = [("DebugTrace", "cancelRequested"), ("RunFinished", None)]


async def log_of(s: Stages, run_id: str) -> list[tuple[str, str | None]]:
    events = await s.events(run_id)
    assert [seq for seq, _, _ in events] == list(range(1, len(events) + 1))
    return [(type_, label) for _, type_, label in events]


async def waits(s: Stages, run_id: str) -> None:
    await s.control.start(StartRequest(agent="asking", run_id=run_id))
    worker = s.worker()
    assert await worker.claim() == 1
    await eventually(lambda: worker.active == 0)
    assert (await s.control.view(run_id)).state == "waiting"


async def of_no_worker(s: Stages, run_id: str) -> None:
    """A run as a process started it that knows an agent which no worker here has."""
    await s.control.start(StartRequest(agent="asking", run_id=run_id))
    await s.database.execute("UPDATE runs SET agent = 'gone' WHERE run_id = $1", run_id)


def idle(worker: Worker) -> bool:
    return worker.active == 0


# ------------------------------------------------------------------ cancelling


async def test_a_pending_run_that_no_worker_knows_is_over_when_the_request_returns(database: str) -> None:
    async with stages(database, asking()) as s:
        await of_no_worker(s, "r")
        view = await s.control.cancel("r")
        assert (view.state, view.outcome, view.last_seq, view.error_code) == ("cancelled", "cancelled", 3, None)
        assert view.started_at is not None
        assert view.finished_at is not None
        assert await log_of(s, "r") == [("RunStarted", None), *ENDS]
        assert s.committed[-1] == "r"  # the publisher hears of it
        assert (await s.control.cancel("r")).last_seq == 3


async def test_a_waiting_run_that_no_worker_knows_any_more_is_over_when_the_request_returns(database: str) -> None:
    async with stages(database, asking()) as s:
        await waits(s, "r")
        before = await log_of(s, "r")
        await s.database.execute("UPDATE runs SET agent = 'gone' WHERE run_id = 'r'")
        view = await s.control.cancel("r")
        assert (view.state, view.waiting_for) == ("cancelled", None)
        assert await log_of(s, "r") == [*before, *ENDS]


async def test_an_external_run_that_has_not_begun_is_over_and_its_orchestrator_hears_so(database: str) -> None:
    async with stages(database, asking()) as s:
        started = await s.control.start(StartRequest(agent="elsewhere", run_id="r", external=True))
        assert (await s.control.cancel("r")).state == "cancelled"
        with pytest.raises((RunClosed, FenceStale)):
            await s.log.append(
                "r", [RUN_STARTED], fence=started.fence or 0, source=Source.API, change=Change(RunState.STARTED)
            )
        assert len(await log_of(s, "r")) == 3


async def test_an_external_run_that_has_begun_is_left_to_its_orchestrator(database: str) -> None:
    async with stages(database, asking()) as s:
        fence = await s.started_run("r")
        assert (await s.control.cancel("r")).state == "started"
        appended = await s.log.append("r", [], fence=fence, source=Source.API)
        assert appended.cancel_requested


async def test_a_run_in_a_workers_hands_is_left_to_the_worker(database: str) -> None:
    never = asyncio.Event()
    async with stages(database, looping(1, never.wait)) as s:  # type: ignore[arg-type]
        await s.control.start(StartRequest(agent="looping", run_id="r"))
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: bool(s.committed))
        assert (await s.control.cancel("r")).state == "started"
        worker.cancel("r")
        await eventually(lambda: worker.active == 0)
        assert (await s.control.view("r")).state == "cancelled"
        assert (await log_of(s, "r"))[-2:] == ENDS


async def test_a_run_whose_worker_died_and_whose_agent_is_gone_can_be_cancelled(database: str) -> None:
    async with stages(database, asking()) as s:
        await of_no_worker(s, "r")
        await s.database.execute("UPDATE runs SET fence = 1, lease_until = now() + interval '1 h' WHERE run_id = 'r'")
        await s.log.append("r", [RUN_STARTED], fence=1, source=Source.WORKER, change=Change(RunState.STARTED))
        assert (await s.control.cancel("r")).state == "started"
        await s.database.execute("UPDATE runs SET lease_until = now() - interval '1 s' WHERE run_id = 'r'")
        cancelling = Cancelling(
            s.database, AtRest(s.database, metrics=s.metrics, on_committed=s.committed.extend), metrics=s.metrics
        )
        assert await cancelling.sweep() == 1
        assert await cancelling.sweep() == 0
        assert await log_of(s, "r") == [("RunStarted", None), *ENDS]
        with pytest.raises((RunClosed, FenceStale)):
            await s.log.append("r", [], fence=1, source=Source.WORKER)


async def test_a_tenant_cancels_its_own_runs_and_no_others(database: str) -> None:
    async with stages(database, asking()) as s:
        await check_isolation(s.database)
        mine, theirs = s.control.on_behalf_of("mine"), s.control.on_behalf_of("theirs")
        await mine.start(StartRequest(agent="asking", run_id="mine:r"))
        with pytest.raises(RunNotFound):
            await theirs.cancel("mine:r")
        assert (await s.control.view("mine:r")).state == "pending"
        assert (await mine.cancel("mine:r")).state == "cancelled"


async def test_a_run_of_a_day_without_partition_can_be_cancelled(database: str) -> None:
    async with stages(database, asking()) as s:
        await of_no_worker(s, "r")
        await s.database.execute("UPDATE runs SET run_day = run_day - 40 WHERE run_id = 'r'")
        assert (await s.control.cancel("r")).state == "cancelled"


@pytest.mark.parametrize("state", ["pending", "waiting"])
async def test_cancels_claims_and_signals_at_the_same_moment_end_a_run_once(database: str, state: str) -> None:
    async with stages(database, asking()) as s:
        for n in range(15):
            run_id = f"r{n}"
            if state == "waiting":
                await waits(s, run_id)
            else:
                await s.control.start(StartRequest(agent="asking", run_id=run_id))
            workers = [s.worker(worker_id=f"w{k}") for k in range(2)]

            async def signal(run_id: str = run_id) -> None:
                with contextlib.suppress(RunClosed):
                    await s.control.signal(run_id, "approved")

            await asyncio.gather(
                *(s.control.cancel(run_id) for _ in range(3)),
                *(worker.claim() for worker in workers),
                *(signal() for _ in range(2)),
            )
            for worker in workers:
                worker.cancel(run_id)
            for worker in workers:
                await eventually(partial(idle, worker))
            if (await s.control.view(run_id)).state == "waiting":  # it had begun to wait before it heard
                await s.control.cancel(run_id)
            log = await log_of(s, run_id)
            assert (await s.control.view(run_id)).state in ("cancelled", "finished")
            assert [type_ for type_, _ in log].count("RunFinished") == 1
            assert log[-1] == ("RunFinished", None)
        assert await s.database.fetchval("SELECT count(*) FROM run_signals") == 0


async def test_without_anybody_to_end_runs_the_request_is_kept_for_a_worker(database: str) -> None:
    async with stages(database, asking()) as s:
        control = RunControl(s.database, s.agents, on_claimable=s.claimable.append, on_cancel=s.cancelled.append)
        await control.start(StartRequest(agent="asking", run_id="r"))
        assert (await control.cancel("r")).state == "pending"
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        assert (await log_of(s, "r"))[-2:] == ENDS


# ------------------------------------------------------------------ signals


async def signals(s: Stages) -> list[tuple[str, str]]:
    rows = await s.database.fetch("SELECT run_id, name FROM run_signals ORDER BY 1, 2")
    return [(row["run_id"], row["name"]) for row in rows]


async def test_signals_nobody_took_end_with_their_run(database: str) -> None:
    async with stages(database, asking()) as s:
        await waits(s, "r")
        await s.database.execute(
            "INSERT INTO run_signals (run_id, name) VALUES ('r', 'unheard')"
        )  # of an older process
        assert await signals(s) == [("r", "unheard")]
        await s.control.signal("r", "approved")
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        assert (await s.control.view("r")).state == "finished"
        assert await signals(s) == []
        with pytest.raises(RunClosed):
            await s.control.signal("r", "approved")


async def test_a_run_has_at_most_a_hundred_signals_that_it_has_not_taken(database: str) -> None:
    async with stages(database, asking()) as s:
        await waits(s, "r")
        for n in range(100):
            await s.control.signal("r", "approved", signal_id=f"s{n}")
        with pytest.raises(TooManySignals):
            await s.control.signal("r", "approved")
        await s.control.signal("r", "approved", signal_id="s7")  # it is there already
        assert len(await signals(s)) == 100


async def test_a_signal_that_comes_while_the_run_begins_to_wait_is_not_missed(database: str) -> None:
    async with stages(database, asking()) as s:
        await s.control.start(StartRequest(agent="asking", run_id="r"))
        blocker = await raw(database)
        worker = s.worker()
        try:
            async with blocker.transaction():
                # A signal whose transaction is open when the run comes to its wait, and commits after it has begun to.
                await blocker.execute("INSERT INTO run_signals (run_id, name) VALUES ('r', 'approved')")
                claiming = asyncio.create_task(worker.claim())
            await claiming
        finally:
            await blocker.close()
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        while (await s.control.view("r")).state == "waiting":
            assert await worker.claim() == 1
            await eventually(lambda: worker.active == 0)
        assert (await s.control.view("r")).state == "finished"


async def test_what_an_older_process_stores_of_a_signal_wakes_a_run_too(database: str) -> None:
    async with stages(database, asking()) as s:
        await waits(s, "r")
        await s.database.execute(
            "INSERT INTO run_signals (run_id, name) VALUES ('r', 'approved') "
            "ON CONFLICT (run_id, name) DO UPDATE SET sent_at = now()"
        )
        worker = s.worker()
        assert await worker.claim() == 1
        await eventually(lambda: worker.active == 0)
        assert (await s.control.view("r")).state == "finished"


async def test_a_claim_reads_no_signal_that_nobody_waits_for(database: str) -> None:
    """Two hundred thousand of them: the claim's plan touches none, and it takes as long as with none."""
    async with stages(database, asking()) as s:
        await s.database.execute(
            "INSERT INTO runs (run_id, agent, state, last_seq, started_at, waiting_for, request_hash, input) "
            "SELECT 'w' || n, 'asking', 'waiting', 1, now(), 'approved', '', '' FROM generate_series(1, 20000) AS n"
        )
        async with s.database.transaction() as tx:
            await tx.execute("SET LOCAL session_replication_role = replica")  # as they were stored by an older version
            await tx.execute(
                "INSERT INTO run_signals (run_id, name) "
                "SELECT 'w' || n, 's' || k FROM generate_series(1, 20000) AS n, generate_series(1, 10) AS k"
            )
        await s.database.execute("VACUUM (ANALYZE)")
        claim = load_sql("runwire.orchestrate", "orchestrate.sql")["claim"]
        async with s.database.transaction() as tx:
            row = await tx.fetchrow(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {claim}", ["asking"], 100, "w", 30.0)
        assert row is not None
        plan = json.loads(row[0])[0]
        touched = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
        assert touched < 50, json.dumps(plan, indent=1)
        await s.control.signal("w7", "approved")
        worker = s.worker()
        began = time.monotonic()
        assert await worker.claim() == 1
        assert time.monotonic() - began < 1.0
        await eventually(lambda: worker.active == 0)


async def touched_by_claim(tx: Transaction, agents: list[str]) -> int:
    """Blocks that a claim of up to a hundred runs touches."""
    claim = load_sql("runwire.orchestrate", "orchestrate.sql")["claim"]
    row = await tx.fetchrow(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {claim}", agents, 100, "w", 30.0)
    assert row is not None
    plan = json.loads(row[0])[0]
    return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])


@pytest.mark.parametrize("external", [False, True])
async def test_a_claim_reads_no_pending_run_that_it_may_not_have(database: str, *, external: bool) -> None:
    """Sixty thousand older ones, of an agent that nobody serves or of external runs, cost a claim nothing."""
    async with stages(database, asking()) as s:
        await s.database.execute(
            "INSERT INTO runs (run_id, agent, external, state, last_seq, request_hash, input) "
            "SELECT 'p' || n, $1, $2, 'pending', 0, '', '' FROM generate_series(1, 60000) AS n",
            *(("asking", True) if external else ("unserved", False)),
        )
        await s.control.start(StartRequest(agent="asking", run_id="mine"))
        await s.database.execute("VACUUM (ANALYZE) runs")
        async with s.database.transaction() as tx:
            assert await touched_by_claim(tx, ["asking", "another"]) < 100
        claimed = await s.database.fetch("SELECT run_id FROM runs WHERE lease_owner = 'w'")
        assert [row["run_id"] for row in claimed] == ["mine"]


async def test_a_claim_takes_the_oldest_runs_of_all_its_agents_and_locks_no_other(database: str) -> None:
    async with stages(database, asking()) as s:
        await s.database.execute(
            "INSERT INTO runs (run_id, agent, state, last_seq, request_hash, input, created_at) "
            "SELECT 'r' || n, 'a' || n % 3, 'pending', 0, '', '', now() - n * interval '1 second' "
            "FROM generate_series(1, 300) AS n"
        )
        claim = load_sql("runwire.orchestrate", "orchestrate.sql")["claim"]
        agents = ["a0", "a1", "a2"]
        async with s.database.transaction() as first:
            one = {row["run_id"] for row in await first.fetch(claim, agents, 60, "w", 30.0)}
            assert one == {f"r{n}" for n in range(241, 301)}
            async with s.database.transaction() as second:  # beside the first, which has not committed
                other = {row["run_id"] for row in await second.fetch(claim, agents, 60, "v", 30.0)}
        assert other == {f"r{n}" for n in range(181, 241)}
