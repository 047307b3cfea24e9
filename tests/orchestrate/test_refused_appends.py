"""An append that the database does not store is not repeated for ever; cancel and drain are heard meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from orchestrate.agents_for_tests import looping
from pipeline import Stages, stages
from runwire.append import Change
from runwire.errors import IllegalAppend, StorageUnavailable
from runwire.model.event import RUN_STARTED, Source, debug_trace, node_finished, node_started
from runwire.model.run import RunState
from runwire.orchestrate import StartRequest
from runwire.orchestrate.run_log import RunLog
from waiting import eventually

DISK_FULL, TOO_LARGE, CHECK = "53100", "54000", "23514"


@asynccontextmanager
async def refused(s: Stages, sqlstate: str, *, of: str = "NEW.type = 'NodeFinished'") -> AsyncIterator[None]:
    """Inside, the database raises this for such events."""
    await s.database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"RAISE EXCEPTION 'no' USING ERRCODE = '{sqlstate}', CONSTRAINT = 'by_test'; END $$"
    )
    await s.database.execute(
        f"CREATE TRIGGER refuse BEFORE INSERT ON run_events FOR EACH ROW WHEN ({of}) EXECUTE FUNCTION refuse()"
    )
    try:
        yield
    finally:
        await s.database.execute("DROP TRIGGER refuse ON run_events")


def failures(s: Stages, *, at_least: int) -> bool:
    name = "runwire_append_failures_total"
    return (s.metrics.out.registry.get_sample_value(name, {"reason": "storage_unavailable"}) or 0) >= at_least


async def of_run(s: Stages, run_id: str, *, patience_s: float = 60.0) -> RunLog:
    await s.control.start(StartRequest(agent="looping", run_id=run_id))
    await s.database.execute(
        "UPDATE runs SET fence = 1, lease_until = now() + interval '1 h' WHERE run_id = $1", run_id
    )
    await s.log.append(run_id, [RUN_STARTED], fence=1, source=Source.WORKER, change=Change(RunState.STARTED))
    return RunLog(s.log, run_id, fence=1, last_seq=1, patience_s=patience_s)


async def labels(s: Stages, run_id: str) -> list[str | None]:
    return [label or type_ for _, type_, label in await s.events(run_id)]


async def test_an_append_that_alone_cannot_be_stored_is_refused_after_a_while(database: str) -> None:
    async with stages(database, looping(1)) as s:
        log = await of_run(s, "r", patience_s=0.1)
        async with refused(s, TOO_LARGE):
            with pytest.raises(IllegalAppend):
                await log.append(node_finished("Add"))
            await log.append(debug_trace("goes.on"))
        assert await labels(s, "r") == ["RunStarted", "goes.on"]


async def test_an_append_is_given_up_while_nothing_can_be_stored(database: str) -> None:
    async with stages(database, looping(1)) as s:
        log = await of_run(s, "r", patience_s=0.1)
        await s.database.execute("ALTER TABLE runs RENAME TO runs_away")
        with pytest.raises(StorageUnavailable):
            await log.append(node_finished("Add"))
        await s.database.execute("ALTER TABLE runs_away RENAME TO runs")
        await log.append(debug_trace("goes.on"))
        assert await labels(s, "r") == ["RunStarted", "goes.on"]


async def test_whoever_interrupts_a_repeated_append_does_not_wait_for_it(database: str) -> None:
    async with stages(database, looping(1)) as s:
        log = await of_run(s, "r")
        async with refused(s, DISK_FULL):
            appending = asyncio.create_task(log.append(node_started("Add"), node_finished("Add")))
            await eventually(partial(failures, s, at_least=2))
            log.interrupted.set()
            with pytest.raises(StorageUnavailable):
                await asyncio.wait_for(appending, 2)


async def test_a_step_that_the_database_refuses_for_good_fails_its_run(database: str) -> None:
    async with stages(database, looping(1)) as s:
        await s.control.start(StartRequest(agent="looping", run_id="r"))
        async with refused(s, CHECK):
            worker = s.worker()
            await worker.claim()
            await eventually(lambda: worker.active == 0)
        view = await s.control.view("r")
        assert (view.state, view.error_code) == ("failed", "storage_refused")
        assert (await labels(s, "r"))[-2:] == ["error:storage_refused:orchestrator", "RunFinished"]


async def test_a_cancel_is_heard_while_a_step_cannot_be_stored(database: str) -> None:
    async with stages(database, looping(1)) as s:
        await s.control.start(StartRequest(agent="looping", run_id="r"))
        async with refused(s, DISK_FULL):
            worker = s.worker()
            await worker.claim()
            await eventually(partial(failures, s, at_least=2))
            await s.control.cancel("r")
            worker.cancel("r")
            await eventually(lambda: worker.active == 0)
            view = await s.control.view("r")
            assert (view.state, view.error_code) == ("cancelled", None)
        assert (await labels(s, "r"))[-2:] == ["cancelRequested", "RunFinished"]


async def test_a_drain_is_heard_while_a_step_cannot_be_stored(database: str) -> None:
    async with stages(database, looping(1)) as s:
        await s.control.start(StartRequest(agent="looping", run_id="r"))
        async with refused(s, DISK_FULL):
            worker = s.worker()
            await worker.claim()
            await eventually(partial(failures, s, at_least=2))
            await asyncio.wait_for(worker.drain(within_s=20), 3)
            assert worker.active == 0
        another = s.worker(worker_id="w2")  # it was handed over: another has it at once
        assert await another.claim() == 1
        await eventually(lambda: another.active == 0)
        assert (await s.control.view("r")).state == "finished"
