"""Open runs in which nothing happens are parked, and the next append wakes them, whoever is in between."""

from __future__ import annotations

import asyncio

from pipeline import RecordingBus, Stages, raw, stages
from runwire.append import Change
from runwire.db import Database
from runwire.model.event import RUN_FINISHED, Source, debug_trace
from runwire.model.graph import END, Agent, Context
from runwire.model.run import RunState
from runwire.observe import ObserverMetrics
from runwire.observe.audit import Audit
from runwire.orchestrate import StartRequest
from runwire.publish import Publisher
from runwire.stream import LogReader
from waiting import eventually

TRACE = (debug_trace("a.b"),)


async def published(publisher: Publisher, run_id: str) -> None:
    publisher.mark_dirty([run_id], by="local")
    while await publisher.publish_pending():
        pass


async def alive(s: Stages) -> dict[str, int]:
    """The runs that sweeps look at, with their cursors."""
    rows = await s.database.fetch("SELECT * FROM run_outbox WHERE NOT parked")
    return {row["run_id"]: row["next_seq"] for row in rows}


def at_once(s: Stages, bus: RecordingBus) -> Publisher:
    """A publisher that parks what is idle now, not what has been for a minute."""
    return s.publisher(bus, park_after_s=0.0)


async def test_an_idle_run_is_parked_and_the_next_append_wakes_it(database: str) -> None:
    async with stages(database) as s:
        bus = RecordingBus()
        publisher = at_once(s, bus)
        fence = await s.started_run("r")
        await published(publisher, "r")
        assert await publisher.park_idle() == 1
        assert await alive(s) == {}
        assert await publisher.sweep() == 0
        await s.log.append("r", TRACE, fence=fence, source=Source.API)
        assert await alive(s) == {"r": 2}
        assert await publisher.sweep() == 1
        assert await publisher.publish_pending() == 1
        assert bus.seqs("r") == [1, 2]
        await publisher.aclose()


async def test_a_run_can_be_parked_again_and_end(database: str) -> None:
    async with stages(database) as s:
        bus = RecordingBus()
        publisher = at_once(s, bus)
        fence = await s.started_run("r")
        for _ in range(3):
            await published(publisher, "r")
            assert await publisher.park_idle() == 1
            await s.log.append("r", TRACE, fence=fence, source=Source.API)
        await published(publisher, "r")
        await publisher.park_idle()
        await s.log.append("r", [RUN_FINISHED], fence=fence, source=Source.API, change=Change(RunState.FINISHED))
        await published(publisher, "r")
        assert bus.seqs("r") == [1, 2, 3, 4, 5]
        assert await alive(s) == {}
        assert await publisher.park_idle() == 0
        await publisher.aclose()


async def test_a_heartbeat_leaves_a_run_parked(database: str) -> None:
    async with stages(database) as s:
        publisher = at_once(s, RecordingBus())
        fence = await s.started_run("r")
        await published(publisher, "r")
        await publisher.park_idle()
        await s.log.append("r", (), fence=fence, source=Source.API)
        assert await alive(s) == {}
        await publisher.aclose()


async def test_a_run_with_something_to_publish_is_not_parked_nor_one_that_was_alive_a_moment_ago(database: str) -> None:
    async with stages(database) as s:
        publisher, patient = at_once(s, RecordingBus()), s.publisher(RecordingBus())
        await s.started_run("r")
        assert await publisher.park_idle() == 0
        await published(publisher, "r")
        assert await patient.park_idle() == 0
        assert await alive(s) == {"r": 2}
        for one in (publisher, patient):
            await one.aclose()


async def test_an_append_under_way_is_not_overlooked(database: str) -> None:
    async with stages(database) as s:
        publisher = at_once(s, RecordingBus())
        await s.started_run("r")
        await published(publisher, "r")
        connection = await raw(database)
        async with connection.transaction():
            await connection.execute("UPDATE runs SET last_seq = 2 WHERE run_id = 'r'")
            assert await publisher.park_idle() == 0
        assert await publisher.park_idle() == 0
        assert await alive(s) == {"r": 2}
        await connection.close()
        await publisher.aclose()


async def test_an_append_that_waited_for_the_parking_wakes_the_run(database: str) -> None:
    async with stages(database) as s:
        publisher = at_once(s, RecordingBus())
        fence = await s.started_run("r")
        await published(publisher, "r")
        connection = await raw(database)
        async with connection.transaction():
            await connection.execute("UPDATE runs SET parked_seq = last_seq WHERE run_id = 'r'")
            await connection.execute("UPDATE run_outbox SET parked = true WHERE run_id = 'r'")
            append = asyncio.ensure_future(s.log.append("r", TRACE, fence=fence, source=Source.API))

            async def blocked() -> bool:
                waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                return bool(await s.database.fetchval(f"{waiting} AND datname = current_database()"))

            await eventually(blocked)
        assert (await append).last_seq == 2
        assert await alive(s) == {"r": 2}
        await connection.close()
        await publisher.aclose()


async def test_a_run_that_waits_for_a_worker_may_be_parked_and_starts_like_any_other(database: str) -> None:
    agent = Agent("one", start="Do", state=dict)

    @agent.node(to=END)
    async def do(_context: Context, _state: dict[str, object]) -> None:
        return None

    async with stages(database, agent) as s:
        bus = RecordingBus()
        publisher = at_once(s, bus)
        await s.control.start(StartRequest(agent="one", run_id="r"))
        assert await publisher.park_idle() == 1
        worker = s.worker()
        await worker.claim()
        await eventually(lambda: worker.active == 0)
        await publisher.sweep()
        await publisher.publish_pending()
        assert bus.seqs("r") == [1, 2, 3, 4]
        await publisher.aclose()


async def test_a_parked_run_counts_as_published_to_its_end_and_breaks_no_invariant(database: str) -> None:
    async with stages(database) as s:
        publisher = at_once(s, RecordingBus())
        await s.started_run("r")
        await published(publisher, "r")
        await publisher.park_idle()
        await publisher.aclose()
        async with Database(database) as db:
            position = await LogReader(db).position("r")
            assert (position.published, position.last_seq, position.closed) == (1, 1, False)
            assert await Audit(db, ObserverMetrics(s.metrics.out)).step() == 1
            assert await db.fetchval("SELECT count(*) FROM audit_findings") == 0
