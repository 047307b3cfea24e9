"""The log gives dense seqs, refuses what breaks an invariant, and fails the guilty append only."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from counting import count
from pipeline import raw, stages
from runwire.append import Change, Checkpoint, Stored
from runwire.clock import monotonic
from runwire.db import Transaction
from runwire.errors import (
    FenceStale,
    IllegalAppend,
    PartitionMissing,
    RunClosed,
    RunNotFound,
    SeqConflict,
    StorageUnavailable,
)
from runwire.model.event import RUN_FINISHED, RUN_STARTED, Source, debug_trace, node_started
from runwire.model.run import RunState
from waiting import eventually


async def test_concurrent_appends_of_many_callers_give_dense_seqs(database: str) -> None:
    async with stages(database) as s:
        fences = {f"run-{n}": await s.started_run(f"run-{n}") for n in range(5)}

        async def caller(run_id: str) -> list[int]:
            got: list[int] = []
            for _ in range(20):
                appended = await s.log.append(
                    run_id, [debug_trace("a.b"), debug_trace("c")], fence=fences[run_id], source=Source.API
                )
                got += range(appended.first_seq, appended.last_seq + 1)
            return got

        answers = await asyncio.gather(*(caller(run_id) for run_id in fences for _ in range(4)))
        for n, run_id in enumerate(fences):
            told = sorted(seq for answer in answers[n * 4 : n * 4 + 4] for seq in answer)
            assert told == list(range(2, 162))
            assert [seq for seq, _, _ in await s.events(run_id)] == list(range(1, 162))
        assert set(s.committed) == set(fences)


async def test_submissions_of_a_run_are_stored_in_the_order_they_were_made(database: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")
        waiters = [
            s.log.submit("r", [debug_trace(f"t{n}")], fence=fence, source=Source.API, if_seq=n + 1 if n % 3 else None)
            for n in range(30)
        ]
        await asyncio.gather(*waiters)
        assert [fn for _, _, fn in await s.events("r")][1:] == [f"t{n}" for n in range(30)]


async def test_rows_of_a_companion_are_stored_with_the_events_or_not_at_all(database: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")
        await s.database.execute("CREATE TABLE beside (seq bigint CHECK (seq < 5))")
        marked = debug_trace("marked")

        async def beside(transaction: Transaction, stored: Stored) -> None:
            await transaction.execute("INSERT INTO beside VALUES ($1)", stored.seq_of(marked))

        async def refuses(_transaction: Transaction, _stored: Stored) -> None:
            raise RunNotFound("another")

        before = s.log.submit("r", [debug_trace("before")], fence=fence, source=Source.WORKER)
        first = s.log.submit("r", [debug_trace("a"), marked], fence=fence, source=Source.WORKER, companion=beside)
        after = s.log.submit("r", [debug_trace("after")], fence=fence, source=Source.WORKER)
        assert [(await it).last_seq for it in (before, first, after)] == [2, 4, 5]
        assert [row["seq"] for row in await s.database.fetch("SELECT seq FROM beside")] == [4]

        with pytest.raises(IllegalAppend):  # its row breaks a rule
            await s.log.append("r", [marked], fence=fence, source=Source.WORKER, companion=beside)
        with pytest.raises(RunNotFound):  # its caller hears what it said
            await s.log.append("r", [marked], fence=fence, source=Source.WORKER, companion=refuses)
        with pytest.raises(FenceStale):  # it is not asked
            await s.log.append("r", [marked], fence=fence - 1, source=Source.WORKER, companion=refuses)
        assert (await s.log.append("r", [debug_trace("b")], fence=fence, source=Source.WORKER)).last_seq == 6


async def test_callers_that_come_back_share_a_commit_with_those_that_waited_meanwhile(database: str) -> None:
    flushes = 0
    flushing = asyncio.Event()

    async def count() -> None:
        nonlocal flushes
        flushes += 1
        flushing.set()

    async with stages(database, give_way=count, append_connections=1) as s:
        fences = {f"r{n}": await s.started_run(f"r{n}") for n in range(8)}

        async def caller(run_id: str) -> None:
            for _ in range(10):
                await s.log.append(run_id, [debug_trace("a.b")], fence=fences[run_id], source=Source.API)

        flushes = 0
        flushing.clear()
        first = [asyncio.create_task(caller(run_id)) for run_id in list(fences)[:4]]
        await flushing.wait()
        await asyncio.gather(*first, *(caller(run_id) for run_id in list(fences)[4:]))
        assert flushes <= 13  # 20, if one half always waited for the other


async def test_appends_give_way_and_their_time_counts_from_the_call(database: str) -> None:
    may_go = asyncio.Event()
    may_go.set()
    async with stages(database, give_way=may_go.wait, append_connections=1) as s:
        fence = await s.started_run("r")
        counted = s.metrics.append_duration.count
        may_go.clear()
        began = monotonic()
        waiters = [s.log.submit("r", [debug_trace(f"t{n}")], fence=fence, source=Source.API) for n in range(3)]
        assert len(await s.events("r")) == 1  # a round trip later nothing has been committed
        before, total = monotonic(), s.metrics.append_duration.sum
        may_go.set()
        await asyncio.gather(*waiters)
        assert len(await s.events("r")) == 4
        assert s.metrics.append_duration.count == counted + 3
        assert s.metrics.append_duration.sum - total >= 2 * (before - began)  # each of them waited so long, too


async def test_a_bad_append_fails_alone(database: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("good")
        closed = await s.started_run("closed")
        await s.log.append("closed", [RUN_FINISHED], fence=closed, source=Source.API, change=Change(RunState.FINISHED))
        pending = await s.started_run("twice")
        results = await asyncio.gather(
            s.log.append("good", [debug_trace("x")], fence=fence, source=Source.API),
            s.log.append("nowhere", [debug_trace("x")], fence=1, source=Source.API),
            s.log.append("closed", [debug_trace("x")], fence=closed, source=Source.API),
            s.log.append("good", [debug_trace("y")], fence=fence - 1, source=Source.API),
            s.log.append("good", [debug_trace("z")], fence=fence, source=Source.API, if_seq=7),
            s.log.append("twice", [RUN_STARTED], fence=pending, source=Source.API),
            return_exceptions=True,
        )
        assert [type(result).__name__ for result in results] == [
            "Appended", "RunNotFound", "RunClosed", "FenceStale", "SeqConflict", "IllegalAppend",
        ]  # fmt: skip
        assert isinstance(results[2], RunClosed)
        assert (results[2].state, results[2].last_seq) == ("finished", 2)
        assert isinstance(results[3], FenceStale)
        assert results[3].last_seq == 2
        assert isinstance(results[4], SeqConflict)
        assert (results[4].expected, results[4].actual) == (7, 2)
        assert await s.events("good") == [(1, "RunStarted", None), (2, "DebugTrace", "x")]
        assert await s.events("twice") == [(1, "RunStarted", None)]
        assert isinstance(results[1], RunNotFound)


async def test_an_append_that_joined_another_still_fails_alone(database: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")
        first = s.log.submit("r", [debug_trace("x")], fence=fence, source=Source.API)
        # Waiting is not legal without a signal to wait for: the table says so, and both are in one statement.
        second = s.log.submit("r", [debug_trace("y")], fence=fence, source=Source.API, change=Change(RunState.WAITING))
        third = s.log.submit("r", [debug_trace("z")], fence=fence, source=Source.API)
        await asyncio.wait({first, second, third})
        assert isinstance(second.exception(), IllegalAppend)
        assert [fn for _, _, fn in await s.events("r")] == [None, "x", "z"]
        assert (first.result().last_seq, third.result().last_seq) == (2, 3)


@pytest.mark.parametrize(
    ("events", "change"),
    [
        ([RUN_FINISHED], None),
        ([], Change(RunState.FINISHED)),
        ([RUN_FINISHED, debug_trace("late")], Change(RunState.FINISHED)),
        ([RUN_FINISHED, RUN_FINISHED], Change(RunState.FINISHED)),
        ([debug_trace("x"), RUN_STARTED], None),
    ],
)
async def test_a_terminal_event_is_last_and_goes_with_its_state(database: str, events: list, change: Change) -> None:  # type: ignore[type-arg]
    async with stages(database) as s:
        fence = await s.started_run("r")
        with pytest.raises(IllegalAppend):
            await s.log.append("r", events, fence=fence, source=Source.API, change=change)
        assert len(await s.events("r")) == 1


async def test_the_first_event_is_run_started(database: str) -> None:
    async with stages(database) as s:
        from runwire.orchestrate import StartRequest  # noqa: PLC0415

        started = await s.control.start(StartRequest(agent="x", run_id="r", external=True))
        with pytest.raises(IllegalAppend):
            await s.log.append("r", [node_started("A")], fence=started.fence or 0, source=Source.API)
        assert await s.events("r") == []


async def test_an_empty_append_checks_the_fence_and_stores_nothing(database: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")
        appended = await s.log.append("r", [], fence=fence, source=Source.API)
        assert (appended.first_seq, appended.last_seq, appended.cancel_requested) == (2, 1, False)
        await s.control.cancel("r")
        assert (await s.log.append("r", [], fence=fence, source=Source.API)).cancel_requested
        with pytest.raises(FenceStale):
            await s.log.append("r", [], fence=fence + 1, source=Source.API)


async def test_a_checkpoint_is_stored_with_its_events_or_not_at_all(database: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")
        keep = Checkpoint("A", "B", b'{"n":1}')
        await s.log.append("r", [debug_trace("x")], fence=fence, source=Source.WORKER, checkpoint=keep)
        with pytest.raises(FenceStale):
            await s.log.append(
                "r", [], fence=fence - 1, source=Source.WORKER, checkpoint=Checkpoint("B", "C", b'{"n":2}')
            )
        row = await s.database.fetchrow("SELECT seq, node, next_node, state FROM run_checkpoints")
        assert row is not None
        assert tuple(row) == (2, "A", "B", b'{"n":1}')
        await s.log.append(
            "r", [], fence=fence, source=Source.WORKER, checkpoint=Checkpoint(None, "C", None)
        )  # the state is as it was
        row = await s.database.fetchrow("SELECT seq, node, next_node, state FROM run_checkpoints")
        assert row is not None
        assert tuple(row) == (2, None, "C", b'{"n":1}')


async def test_when_the_database_goes_away_callers_know_and_nothing_is_told(database: str) -> None:
    async with stages(database, append_connections=1) as s:
        fence = await s.started_run("r")
        s.committed.clear()
        blocker = await raw(database)
        await blocker.execute("BEGIN")
        await blocker.execute("SELECT * FROM runs FOR UPDATE")
        waiting = s.log.submit("r", [debug_trace("x")], fence=fence, source=Source.API)
        killer = await raw(database)
        await eventually(
            lambda: killer.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name LIKE 'runwire append%' AND wait_event_type = 'Lock'"
            )
        )
        with pytest.raises(StorageUnavailable):
            await waiting
        assert s.committed == []
        await blocker.execute("ROLLBACK")
        assert (await s.log.append("r", [debug_trace("y")], fence=fence, source=Source.API)).last_seq == 2
        await blocker.close()
        await killer.close()


async def test_a_full_queue_refuses_instead_of_growing(database: str) -> None:
    async with stages(database, append_connections=1, append_queue_max=2) as s:
        fence = await s.started_run("r")
        waiters = [s.log.submit("r", [debug_trace("x")], fence=fence, source=Source.API) for _ in range(2)]
        with pytest.raises(StorageUnavailable):
            s.log.submit("r", [debug_trace("x")], fence=fence, source=Source.API)
        await asyncio.gather(*waiters)


async def test_no_statement_can_break_what_the_database_holds(database: str) -> None:
    """Each invariant is tried against directly, as a bug in runwire would."""
    async with stages(database) as s:
        fence = await s.started_run("r")
        await s.log.append("r", [RUN_FINISHED], fence=fence, source=Source.API, change=Change(RunState.FINISHED))
        connection = await raw(database)
        insert = "INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source, name) SELECT run_day, run_id, "
        attempts = {
            "a seq twice": insert + "2, 0, 'NodeStarted', 'api', 'A' FROM runs",
            "a second terminal event": insert + "3, 0, 'RunFinished', 'api', NULL FROM runs",
            "RunStarted later": insert + "3, 0, 'RunStarted', 'api', NULL FROM runs",
            "a first event that is not RunStarted": insert + "1, 0, 'NodeStarted', 'api', 'A' FROM runs",
            "a node event without its node": insert + "3, 0, 'NodeFinished', 'api', NULL FROM runs",
            "leaving a terminal state": "UPDATE runs SET state = 'started', finished_at = NULL",
            "another terminal state": "UPDATE runs SET state = 'failed'",
            "a closed run without its time": "UPDATE runs SET finished_at = NULL",
        }
        for what, statement in attempts.items():
            try:
                await connection.execute(statement)
            except asyncpg.IntegrityConstraintViolationError:
                continue
            pytest.fail(f"{what} was stored")
        await connection.close()


async def test_a_missing_partition_fails_the_appends_of_its_day_alone_and_is_the_storage_s_fault(database: str) -> None:
    async with stages(database, append_connections=1) as s:
        fences = {run_id: await s.started_run(run_id) for run_id in ("today", "old")}
        await s.database.execute("UPDATE runs SET run_day = '2020-02-02' WHERE run_id = 'old'")
        appends = [
            s.log.submit(run_id, [debug_trace("x")], fence=fence, source=Source.API)
            for run_id, fence in [*fences.items(), ("old", fences["old"])]
        ]
        today, *old = await asyncio.gather(*appends, return_exceptions=True)
        assert not isinstance(today, BaseException)
        assert [type(error) for error in old] == [PartitionMissing, PartitionMissing]
        assert count(s.metrics.append_failures["partition_missing"]) == 2
        assert count(s.metrics.append_failures["illegal_append"]) == 0
        await s.database.execute(
            "CREATE TABLE run_events_20200202 PARTITION OF run_events FOR VALUES FROM ('2020-02-02') TO ('2020-02-03')"
        )
        appended = await s.log.append("old", [debug_trace("x")], fence=fences["old"], source=Source.API)
        assert appended.first_seq == 2
