"""Each stage a run can be stuck in is caused for real, and named."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from nats_server import nats_server
from orchestrate.agents_for_tests import Count, Gate, asking, fail, one_node
from orchestrate.waiting_agents import reviewing, sleeping
from pipeline import RecordingBus, Stages, raw, running, stages
from runwire import Sleep
from runwire.agents.golden import golden
from runwire.append import Change
from runwire.bus.nats import NatsBusWriter, NatsOptions
from runwire.content.part_metrics import PartMetrics
from runwire.content.part_writer import PartWriter
from runwire.content.parts import Parts
from runwire.errors import RunNotFound
from runwire.model.event import RUN_FINISHED, Source, debug_trace
from runwire.model.run import RunState
from runwire.observe import Diagnosis, DiagnosisThresholds, Diagnostician, Stage
from runwire.observe.closed_runs import why_failed
from runwire.orchestrate import StartRequest
from runwire.orchestrate.external_parts import ExternalParts
from runwire.orchestrate.node_parts import PartDesk, PartLimits
from runwire.orchestrate.sessions import WorkerFacts, WorkerSession
from runwire.publish import PublishWorker
from runwire.publish.settings import PublishSettings
from waiting import eventually

SOON: Final = DiagnosisThresholds(unclaimed_s=0.05, unpublished_s=0.05, grace_s=0.05, silent_s=3600.0)
"""Times in seconds beyond which a run counts as stuck. How long a publisher and a lock are given stays as it is."""

PATIENT: Final = DiagnosisThresholds(silent_s=3600.0)
"""As by default, but a publisher's heartbeat may be old: nobody sends one while a test steps."""


async def diagnose(s: Stages, run_id: str, *, limits: DiagnosisThresholds | None = None) -> Diagnosis:
    found = await Diagnostician(s.database, s.agents, limits=limits or PATIENT).diagnose(run_id)
    assert found.next_step.text
    assert found.healthy == (found.stage in (Stage.CLIENT_SIDE, Stage.FAILED, Stage.WAITING))
    return found


async def publish_all(s: Stages, run_id: str, bus: Any = None) -> None:
    publisher = s.publisher(bus or RecordingBus(), publisher_id="p1")
    worker = PublishWorker(publisher)
    worker.mark_dirty([run_id])
    worker.stop()
    await worker.run()
    alive = s.publisher(RecordingBus(), publisher_id="p1")
    await alive.heartbeat()
    await alive.aclose()


@asynccontextmanager
async def attended(s: Stages, *agents: str) -> AsyncIterator[None]:
    """Inside, worker `w1`, which has these agents, has a session that proves that it lives."""
    session = WorkerSession(s.database.session("watch"), WorkerFacts("w1", agents, 1))
    try:
        await eventually(session.hold, within_s=30)
        yield
    finally:
        await session.aclose()


async def diagnosed(
    s: Stages, run_id: str, stage: Stage, words: str = "", *, limits: DiagnosisThresholds = SOON
) -> Diagnosis:
    """The first diagnosis that finds the stage, with those words in its summary or its next step."""

    async def found() -> Diagnosis | None:
        seen = await diagnose(s, run_id, limits=limits)
        assert seen.stage is stage, seen
        return seen if words in seen.summary + seen.next_step.text else None

    seen = await eventually(found, within_s=30)
    assert seen is not None
    return seen


@asynccontextmanager
async def publishing(s: Stages, bus: Any, **settings: Any) -> AsyncIterator[PublishWorker]:
    """Inside, a publisher runs, and has looked for what is unpublished; nobody hints at what comes later."""
    worker = PublishWorker(s.publisher(bus, publisher_id="p1"), settings=PublishSettings(**settings))
    await worker.look()
    async with running(worker, ends_within_s=30):
        yield worker


async def test_a_run_nobody_claims(database: str) -> None:
    async with stages(database, golden) as s:
        run_id = (await s.control.start(StartRequest(input={"delay_ms": 0}))).run_id
        assert (await diagnose(s, run_id)).stage is Stage.UNKNOWN  # a moment ago: that is no fault, and proves nothing
        found = await diagnosed(s, run_id, Stage.NEVER_CLAIMED)
        assert found.evidence["ageSeconds"] >= SOON.unclaimed_s
        assert found.next_step.command == "runwire serve --role worker"
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0, within_s=30)
        await publish_all(s, run_id)
        assert (await diagnose(s, run_id)).stage is Stage.CLIENT_SIDE


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
    gate = Gate()

    async def does_not_listen(_ctx: Any, _state: Count) -> None:
        while not gate.open.is_set():  # told to end at its timeout, it goes on
            with contextlib.suppress(asyncio.CancelledError):
                await gate.pass_through()

    async with stages(database, one_node(does_not_listen, timeout_s=0.1)) as s:
        run_id = (await s.control.start(StartRequest(agent="one"))).run_id
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: gate.cancelled, within_s=30)
        await publish_all(s, run_id)
        assert (await diagnose(s, run_id, limits=replace(PATIENT, grace_s=60))).stage is Stage.CLIENT_SIDE
        found = await diagnosed(s, run_id, Stage.NODE_HUNG, limits=DiagnosisThresholds(unpublished_s=60, grace_s=0.05))
        assert found.evidence["nodeInFlight"]["name"] == "Work"
        assert found.next_step.command == f"runwire run cancel {run_id}"
        gate.open.set()
        await eventually(lambda: worker.active == 0, within_s=30)


async def test_a_node_that_blocks_the_event_loop_is_named_with_its_line(database: str) -> None:
    gate = Gate()
    async with stages(database, one_node(lambda _ctx, _state: gate.pass_through())) as s:
        run_id = (await s.control.start(StartRequest(agent="one"))).run_id
        worker = s.worker()
        await worker.claim()
        await gate.entered.wait()
        await publish_all(s, run_id)
        session = WorkerSession(s.database.session("watch"), WorkerFacts("w1", ("one",), 1))
        try:
            await session.tell_block(run_id, node="Work", at="/srv/shop.py:12 charge", blocked_s=3.0)
        finally:
            await session.aclose()
        found = await diagnose(s, run_id)
        assert found.stage is Stage.NODE_HUNG
        assert "/srv/shop.py:12 charge" in found.summary
        assert found.evidence["blocked"]["node"] == "Work"
        await s.database.execute("UPDATE run_blocks SET seen_at = seen_at - interval '6 s'")  # it is over
        found = await diagnose(s, run_id)
        assert (found.stage, found.evidence["blocked"]["at"]) == (Stage.CLIENT_SIDE, "/srv/shop.py:12 charge")
        gate.open.set()
        await eventually(lambda: worker.active == 0)


async def test_a_run_with_which_workers_died_says_how_many(database: str) -> None:
    gate = Gate()
    async with stages(database, one_node(lambda _ctx, _state: gate.pass_through())) as s:
        run_id = (await s.control.start(StartRequest(agent="one"))).run_id
        worker = s.worker()
        await worker.claim()
        await gate.entered.wait()
        await publish_all(s, run_id)
        await s.database.execute(
            "INSERT INTO run_losses (run_id, losses, seq, fence, worker_id, alone_s) "
            "SELECT run_id, 2, last_seq, fence, 'w0', 60 FROM runs"
        )
        found = await diagnose(s, run_id)
        assert (found.stage, found.evidence["workersLost"]) == (Stage.LEASE_LOST, 2)
        gate.open.set()
        await eventually(lambda: worker.active == 0)


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


@pytest.mark.parametrize("publisher", ["that never ran", "that was killed"])
async def test_an_outbox_nobody_publishes(database: str, publisher: str) -> None:
    async with stages(database) as s:
        if publisher == "that was killed":
            killed = s.publisher(RecordingBus(), publisher_id="p1")
            await PublishWorker(killed).step()
            await killed.aclose()  # without a word, as SIGKILL has it
        await s.started_run("r")
        found = await diagnosed(s, "r", Stage.OUTBOX_STUCK, "no publisher is alive", limits=replace(SOON, alive_s=0.2))
        assert found.evidence["unpublishedSeconds"] >= SOON.unpublished_s
        assert found.next_step.command == "runwire serve --role publisher"
        async with publishing(s, RecordingBus()):
            await diagnosed(s, "r", Stage.CLIENT_SIDE)


async def test_a_publisher_that_has_been_silent_is_not_called_alive(database: str) -> None:
    async with stages(database) as s:
        killed = s.publisher(RecordingBus(), publisher_id="p1")
        await PublishWorker(killed).look()
        await killed.aclose()
        await s.started_run("r")
        await s.database.execute("UPDATE publishers SET heartbeat_at = heartbeat_at - interval '8 s'")
        limits = replace(SOON, alive_s=3600.0, silent_s=6.0)
        found = await diagnosed(s, "r", Stage.OUTBOX_STUCK, "It may be dead", limits=limits)
        assert found.evidence["publishers"][0]["heartbeatSeconds"] >= 8
        assert found.next_step.command == "runwire serve --role publisher"


async def test_an_outbox_row_that_somebody_holds(database: str) -> None:
    async with stages(database) as s, publishing(s, RecordingBus(), publish_sweep_s=0.05):
        fence = await s.started_run("r")
        await diagnosed(s, "r", Stage.CLIENT_SIDE)
        holder = await raw(database)
        await holder.execute("BEGIN")
        await holder.execute("SELECT FROM run_outbox FOR UPDATE")
        await s.log.append("r", [debug_trace("x")], fence=fence, source=Source.API)
        found = await diagnosed(s, "r", Stage.OUTBOX_STUCK, f"locked by session {holder.get_server_pid()}")
        assert "idle in transaction" in found.summary
        assert found.evidence["cursorLockedBy"]["pid"] == holder.get_server_pid()
        assert found.next_step.command == f"psql -c 'SELECT pg_terminate_backend({holder.get_server_pid()})'"
        await holder.execute("ROLLBACK")
        await holder.close()
        await diagnosed(s, "r", Stage.CLIENT_SIDE)


@pytest.mark.parametrize("publisher", ["that is gone", "that is silent"])
async def test_an_open_run_is_not_called_healthy_without_a_publisher_that_lives(database: str, publisher: str) -> None:
    async with stages(database) as s:
        await s.started_run("r")
        await publish_all(s, "r")
        assert (await diagnose(s, "r")).stage is Stage.CLIENT_SIDE
        gone = publisher == "that is gone"
        change = "DELETE FROM" if gone else "UPDATE"
        rest = "" if gone else "SET heartbeat_at = heartbeat_at - interval '8 s'"
        await s.database.execute(f"{change} publishers {rest}")
        found = await diagnose(s, "r", limits=DiagnosisThresholds())
        assert (found.stage, found.healthy) == (Stage.UNKNOWN, False)
        assert found.next_step.command == "runwire serve --role publisher"


async def test_a_run_whose_worker_has_lost_its_session_is_not_called_healthy(database: str) -> None:
    gate = Gate()
    async with stages(database, one_node(lambda _ctx, _state: gate.pass_through())) as s:
        run_id = (await s.control.start(StartRequest(agent="one"))).run_id
        worker = s.worker()
        async with attended(s, "one"):
            await worker.claim()
            await gate.entered.wait()
            await publish_all(s, run_id)
            found = await diagnose(s, run_id)
            assert (found.stage, found.evidence["workers"]) == (Stage.CLIENT_SIDE, 1), found.summary

        async def lost() -> bool:
            found = await diagnose(s, run_id)
            return found.stage is Stage.UNKNOWN and "session of worker w1" in found.summary

        await eventually(lost, within_s=30)  # the server takes a moment to end the session
        gate.open.set()
        await eventually(lambda: worker.active == 0)


async def test_a_run_that_lacks_its_next_event_is_not_called_healthy(database: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")
        await publish_all(s, "r")
        await s.log.append("r", [debug_trace("x")], fence=fence, source=Source.API)
        await s.database.execute("DELETE FROM run_events WHERE run_id = 'r' AND seq = 2")
        found = await diagnose(s, "r")
        assert (found.stage, found.healthy) == (Stage.UNKNOWN, False)
        assert "Event 2 is neither published nor in the log" in found.summary


async def test_an_open_run_that_nobody_publishes_is_told(database: str) -> None:
    async with stages(database) as s:
        await s.started_run("r")
        await publish_all(s, "r")
        await s.database.execute("DELETE FROM run_outbox")
        found = await diagnose(s, "r")
        assert (found.stage, found.healthy) == (Stage.OUTBOX_STUCK, False)
        assert "no row in run_outbox" in found.summary


async def test_a_run_that_goes_on_for_longer_than_its_agent_expects_is_not_called_healthy(database: str) -> None:
    async with stages(database) as s:
        await s.started_run("r")
        await publish_all(s, "r")
        await s.database.execute("UPDATE runs SET started_at = started_at - interval '11 minutes'")
        found = await diagnose(s, "r")
        assert (found.stage, found.healthy) == (Stage.UNKNOWN, False)
        assert "its agent expects 600 s" in found.summary


async def test_a_publisher_that_no_hint_reached(database: str) -> None:
    async with stages(database) as s, publishing(s, RecordingBus(), publish_sweep_s=60.0) as worker:
        await s.started_run("r")  # committed, and nobody told the publisher, which does not look by itself
        await diagnosed(s, "r", Stage.OUTBOX_STUCK, "Nudge")
        worker.mark_dirty(["r"])
        await diagnosed(s, "r", Stage.CLIENT_SIDE)


async def test_a_bus_that_is_down(database: str) -> None:
    async with nats_server() as server, stages(database) as s:
        bus = NatsBusWriter(NatsOptions((server.url,)))
        link = asyncio.create_task(bus.link.run())
        await asyncio.wait_for(bus.link.connected.wait(), 30)
        async with publishing(s, bus, publish_sweep_s=0.05, publish_heartbeat_s=0.05, publish_backoff_max_s=0.2):
            fence = await s.started_run("r")
            await diagnosed(s, "r", Stage.CLIENT_SIDE)
            server.stop()
            await s.log.append("r", [debug_trace("x")], fence=fence, source=Source.API)
            found = await diagnosed(s, "r", Stage.BUS_DOWN)
            assert found.evidence["publishers"][0]["failingWith"] == "bus_unavailable"
            await server.start()
            await diagnosed(s, "r", Stage.CLIENT_SIDE)
        link.cancel()
        await asyncio.gather(link, return_exceptions=True)


async def test_an_api_that_hears_no_notifications(database: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")
        await publish_all(s, "r")
        session = await raw(database)
        await session.execute("SET application_name = 'runwire deaf bus listener of api-1:7'")
        found = await diagnosed(s, "r", Stage.API_DEAF, "process api-1:7 hears no notifications")
        assert found.evidence["deafListeners"] == [
            {"listener": "runwire deaf bus listener", "process": "api-1:7", "address": None}
        ]
        await session.close()
        await diagnosed(s, "r", Stage.CLIENT_SIDE)
        await s.log.append("r", [debug_trace("x")], fence=fence, source=Source.API)
        await diagnosed(s, "r", Stage.OUTBOX_STUCK)


async def test_a_run_that_waits_for_its_signal_is_healthy(database: str) -> None:
    async with stages(database, asking()) as s:
        run_id = (await s.control.start(StartRequest(agent="asking"))).run_id
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        await publish_all(s, run_id)
        assert (await diagnose(s, run_id)).stage is Stage.UNKNOWN, "no worker is known that could go on with it"
        async with attended(s, "asking"):
            found = await diagnose(s, run_id)
        assert (found.stage, found.healthy) == (Stage.WAITING, True)
        assert found.next_step.command == f"runwire run signal {run_id} approved"
        assert found.evidence["signalsNotTaken"] == 0


async def test_a_signal_that_no_worker_takes_is_a_fault(database: str) -> None:
    async with stages(database, asking()) as s:
        run_id = (await s.control.start(StartRequest(agent="asking"))).run_id
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        await publish_all(s, run_id)
        await s.control.signal(run_id, "approved")
        fresh = await diagnose(s, run_id, limits=replace(SOON, unclaimed_s=3600.0))
        assert (fresh.stage, "send" in fresh.next_step.text.lower()) == (Stage.UNKNOWN, False)
        found = await diagnosed(s, run_id, Stage.NEVER_CLAIMED)
        assert "The signal came" in found.summary
        assert found.evidence["signalledSeconds"] >= SOON.unclaimed_s
        assert found.next_step.command == "runwire serve --role worker"


async def test_a_run_that_waits_with_a_time_out_says_for_what_since_when_and_until_when(database: str) -> None:
    async with stages(database, reviewing()) as s:
        run_id = (await s.control.start(StartRequest(agent="reviewing"))).run_id
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        await publish_all(s, run_id)
        since = "waiting_since = waiting_since - interval '600 s', wake_at = wake_at - interval '600 s'"
        await s.database.execute(f"UPDATE runs SET {since}")  # noqa: S608
        async with attended(s, "reviewing"):
            found = await diagnose(s, run_id)
        assert (found.stage, found.healthy) == (Stage.WAITING, True)
        assert found.evidence["waitingSeconds"] == pytest.approx(600, abs=20)
        assert found.evidence["timerLeftSeconds"] == pytest.approx(3000, abs=20)
        assert found.summary.startswith("The run has waited for signal 'approved' or 'rejected' for 6")
        assert "goes on without one in 2" in found.summary or "in 3000 s" in found.summary


async def test_a_timer_that_nobody_fires_is_a_fault(database: str) -> None:
    async with stages(database, sleeping(lambda: Sleep("Wake", for_s=3600))) as s:
        run_id = (await s.control.start(StartRequest(agent="sleeping"))).run_id
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        await publish_all(s, run_id)
        async with attended(s, "sleeping"):
            found = await diagnose(s, run_id)
        assert (found.stage, found.evidence["waitingFor"]) == (Stage.WAITING, None)
        assert "goes on by itself" in found.summary
        await s.database.execute("UPDATE runs SET wake_at = clock_timestamp() - interval '60 s'")
        found = await diagnose(s, run_id)
        assert (found.stage, found.healthy) == (Stage.TIMER_OVERDUE, False)
        assert found.next_step.command == "runwire serve --role worker"


async def test_a_signal_that_came_before_its_wait_is_as_old_as_the_wait(database: str) -> None:
    async with stages(database, reviewing()) as s:
        run_id = (await s.control.start(StartRequest(agent="reviewing"))).run_id
        await s.control.signal(run_id, "approved", data=b'{"by": "Ann"}')
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        await publish_all(s, run_id)
        await s.database.execute("UPDATE run_signals SET sent_at = sent_at - interval '600 s'")
        found = await diagnose(s, run_id, limits=replace(PATIENT, unclaimed_s=60.0))
        assert (found.stage, found.healthy) == (Stage.UNKNOWN, False)
        assert found.evidence["signalledSeconds"] < 60


async def test_bytes_of_parts_that_wait_for_a_lock(database: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")
        async with PartWriter(s.database, metrics=PartMetrics(s.metrics.out)) as writer:
            external = ExternalParts(s.log, PartDesk(Parts(s.database), writer, PartLimits()))
            part = await external.open("r", "answer", "text/plain", fence=fence)
            await publish_all(s, "r")
            opened = writer.open("r", 1, name="answer", attempt=1, part_id=part.part_id, fence=fence)
            await opened.write(b"a few words")
            await opened.flush()
            found = await diagnose(s, "r")
            assert found.stage is Stage.CLIENT_SIDE
            assert "Part 1 is open and has 11 bytes" in found.summary
            [seen] = found.evidence["openParts"]
            assert (seen["part"], seen["attempt"], seen["bytes"]) == (1, 1, 11)
            holder = await raw(database)
            await holder.execute("BEGIN")
            await holder.execute("SELECT FROM parts FOR UPDATE")
            await opened.write(b", and more")
            found = await diagnosed(s, "r", Stage.PARTS_STUCK, limits=replace(SOON, lock_s=0.05))
            assert str(holder.get_server_pid()) in (found.next_step.command or "")
            await holder.execute("ROLLBACK")
            await holder.close()
            await opened.flush()
            assert (await diagnose(s, "r")).evidence["openParts"][0]["bytes"] == 21
            opened.close()


async def test_a_finished_and_published_run_leaves_only_the_client(database: str) -> None:
    async with stages(database, golden) as s:
        run_id = (await s.control.start(StartRequest(input={"delay_ms": 0}))).run_id
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        await publish_all(s, run_id)
        found = await diagnose(s, run_id)
        assert found.stage is Stage.CLIENT_SIDE
        assert found.summary.startswith("The run is finished")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("exception", "a node raised an exception"),
        ("timeout", "a node took longer than its timeout_s"),
        ("worker_lost", "worker after worker died with it"),
        ("content_unavailable", "the content store failed"),
        ("out_of_stock", "a node gave it up with 'out_of_stock'"),
    ],
)
async def test_a_failed_run_is_told_by_its_code_and_not_blamed_on_a_proxy(database: str, code: str, said: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")
        await s.log.append(
            "r", [RUN_FINISHED], fence=fence, source=Source.API, change=Change(RunState.FAILED, error_code=code)
        )
        await publish_all(s, "r")
        found = await diagnose(s, "r")
    assert (found.stage, found.healthy) == (Stage.FAILED, True)
    assert said in found.summary
    assert "proxy" not in found.summary + found.next_step.text
    assert "start the run again" in found.next_step.text


def test_every_code_that_the_agents_guide_names_has_its_advice() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
    codes = set(re.findall(r"`error:(\w+):", guide)) - {"out_of_stock"}  # the example of a code of one's own
    assert codes >= {"exception", "timeout", "bad_exit"}
    assert [code for code in codes if "the agent's own" in why_failed(code, last_error=None)[1]] == []


async def test_a_run_that_failed_has_its_last_error_in_evidence(database: str) -> None:
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
        assert found.stage is Stage.FAILED
        assert found.evidence["lastError"] == "error:no_luck:work"
        assert found.evidence["traceId"] == "a" * 32


async def test_a_run_that_is_not_there(database: str) -> None:
    async with stages(database) as s:
        with pytest.raises(RunNotFound):
            await diagnose(s, "nowhere")
