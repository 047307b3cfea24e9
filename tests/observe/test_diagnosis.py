"""Each stage a run can be stuck in is caused for real, and named."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrate.agents_for_tests import Count, Gate, asking, fail, one_node
from pipeline import RecordingBus, Stages, raw, stages
from runwire.agents.golden import golden
from runwire.errors import RunNotFound
from runwire.model.event import Source, debug_trace, node_started
from runwire.observe import Diagnosis, Diagnostician, Stage
from runwire.orchestrate import StartRequest
from runwire.publish import PublishWorker
from waiting import eventually


async def age_events(s: Stages, seconds: int) -> None:
    await s.database.execute("UPDATE run_events SET ts_us = ts_us - $1::bigint * 1000000", seconds)


async def diagnose(s: Stages, run_id: str) -> Diagnosis:
    found = await Diagnostician(s.database, s.agents).diagnose(run_id)
    assert found.next_step.text
    assert found.healthy == (found.stage in (Stage.CLIENT_SIDE, Stage.WAITING))
    return found


async def publish_all(s: Stages, run_id: str, bus: Any = None) -> None:
    publisher = s.publisher(bus or RecordingBus(), publisher_id="p1")
    worker = PublishWorker(publisher)
    worker.mark_dirty([run_id])
    worker.stop()
    await worker.run()


async def test_a_run_nobody_claims(database: str) -> None:
    async with stages(database, golden) as s:
        run_id = (await s.control.start(StartRequest())).run_id
        assert (await diagnose(s, run_id)).stage is Stage.CLIENT_SIDE  # a moment ago: that is no fault
        await s.database.execute("UPDATE runs SET created_at = now() - interval '9 s'")
        found = await diagnose(s, run_id)
        assert found.stage is Stage.NEVER_CLAIMED
        assert found.evidence["ageSeconds"] >= 9
        assert found.next_step.command == "runwire serve --role worker"


async def test_a_run_whose_worker_died(database: str) -> None:
    gate = Gate()
    async with stages(database, one_node(lambda _ctx, _state: gate.pass_through())) as s:
        run_id = (await s.control.start(StartRequest(agent="one"))).run_id
        worker = s.worker(worker_id="the-dead-one", lease_s=0.01)
        await worker.claim()
        await gate.entered.wait()
        await publish_all(s, run_id)

        async def expired() -> bool:
            return (await diagnose(s, run_id)).stage is Stage.LEASE_LOST

        await eventually(expired)
        assert (await diagnose(s, run_id)).evidence["lease"]["owner"] == "the-dead-one"
        gate.open.set()
        await eventually(lambda: worker.active == 0)


async def test_a_node_that_hangs(database: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")
        await s.log.append("r", [node_started("Ask")], fence=fence, source=Source.API)
        await publish_all(s, "r")
        assert (await diagnose(s, "r")).stage is Stage.CLIENT_SIDE
        await age_events(s, 120)
        found = await diagnose(s, "r")
        assert found.stage is Stage.NODE_HUNG
        assert found.evidence["nodeInFlight"]["name"] == "Ask"
        assert found.next_step.command == "runwire run cancel r"


@pytest.mark.parametrize("cause", ["locked", "no partition"])
async def test_appends_that_cannot_happen(database: str, cause: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")
        await publish_all(s, "r")
        other = await raw(database)
        await other.execute("BEGIN")
        waiting: asyncio.Future[Any] | None = None
        if cause == "locked":
            await other.execute("SELECT FROM runs FOR UPDATE")
            waiting = s.log.submit("r", [debug_trace("x")], fence=fence, source=Source.API)
        else:
            await other.execute("ROLLBACK")
            await other.execute(
                "DROP TABLE run_events_" + await other.fetchval("SELECT to_char(run_day, 'YYYYMMDD') FROM runs")
            )

        async def found() -> bool:
            return (await diagnose(s, "r")).stage is Stage.APPEND_FAILING

        await eventually(found)
        if waiting is not None:
            assert str(other.get_server_pid()) in ((await diagnose(s, "r")).next_step.command or "")
            await other.execute("ROLLBACK")
            await waiting
        await other.close()


async def test_a_database_that_takes_no_writes(database: str) -> None:
    async with stages(database) as s:
        await s.started_run("r")
        await publish_all(s, "r")
        name = await s.database.fetchval("SELECT current_database()")
        await s.database.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    async with stages(database) as later:
        found = await diagnose(later, "r")
        assert found.stage is Stage.APPEND_FAILING
        assert "read-only" in found.summary


async def test_an_outbox_nobody_publishes(database: str) -> None:
    async with stages(database) as s:
        await s.started_run("r")
        await age_events(s, 7)
        found = await diagnose(s, "r")
        assert found.stage is Stage.OUTBOX_STUCK
        assert "no publisher is alive" in found.summary
        assert found.evidence["unpublishedSeconds"] >= 7


async def test_an_outbox_row_that_somebody_holds(database: str) -> None:
    async with stages(database) as s:
        await s.started_run("r")
        await age_events(s, 7)
        publisher = s.publisher(RecordingBus(), publisher_id="p1")
        await publisher.heartbeat()
        holder = await raw(database)
        await holder.execute("BEGIN")
        await holder.execute("SELECT FROM run_outbox FOR UPDATE")
        found = await diagnose(s, "r")
        assert found.stage is Stage.OUTBOX_STUCK
        assert "locked" in found.summary
        await holder.execute("ROLLBACK")
        assert "Nudge" in (await diagnose(s, "r")).next_step.text
        await holder.close()
        await publisher.aclose()


async def test_a_bus_that_is_down(database: str) -> None:
    async with stages(database) as s:
        await s.started_run("r")
        await age_events(s, 7)
        publisher = s.publisher(RecordingBus(refuse=lambda _message: True), publisher_id="p1")
        worker = PublishWorker(publisher)
        worker.mark_dirty(["r"])
        await worker.step()
        await worker.look()
        found = await diagnose(s, "r")
        assert found.stage is Stage.BUS_DOWN
        assert found.evidence["publishers"][0]["failingWith"] == "bus_unavailable"
        await publisher.aclose()


async def test_a_run_that_waits_for_its_signal_is_healthy(database: str) -> None:
    async with stages(database, asking()) as s:
        run_id = (await s.control.start(StartRequest(agent="asking"))).run_id
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        await publish_all(s, run_id)
        found = await diagnose(s, run_id)
        assert (found.stage, found.healthy) == (Stage.WAITING, True)
        assert found.next_step.command == f"runwire run signal {run_id} approved"


async def test_a_finished_and_published_run_leaves_only_the_client(database: str) -> None:
    async def work(ctx: Any, state: Count) -> None:
        await fail(ctx, state)

    async with stages(database, one_node(work)) as s:
        run_id = (
            await s.control.start(StartRequest(agent="one", traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01"))
        ).run_id
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        await publish_all(s, run_id)
        found = await diagnose(s, run_id)
        assert found.stage is Stage.CLIENT_SIDE
        assert found.evidence["lastError"] == "error:no_luck:work"
        assert found.evidence["traceId"] == "a" * 32


async def test_a_run_that_is_not_there(database: str) -> None:
    async with stages(database) as s:
        with pytest.raises(RunNotFound):
            await diagnose(s, "nowhere")
