"""Workers and their sessions: a death is known at once, a short cut is not one, and runs that kill are found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from orchestrate.agents_for_tests import Count, Gate
from pipeline import Stages, stages
from runwire import END, Agent, Context
from runwire.model.graph import Agents
from runwire.orchestrate import StartRequest, Worker
from runwire.orchestrate.sessions import NOTHING, Taken, WorkerFacts, WorkerSession
from runwire.orchestrate.settings import OrchestrateSettings
from runwire.telemetry.spans import NO_SPANS
from waiting import eventually


def gated(first: Gate, second: Gate) -> Agent[Count]:
    agent = Agent("gated", start="First", state=Count)

    @agent.node(name="First", to="Second", timeout_s=60)
    async def _first(_ctx: Context, _state: Count) -> None:
        await first.pass_through()

    @agent.node(name="Second", to=END, timeout_s=60)
    async def _second(_ctx: Context, _state: Count) -> None:
        await second.pass_through()

    return agent


ANY = gated(Gate(), Gate())
"""The facts that starts need."""


@dataclass
class Life:
    """A worker with its session, and the gates of both nodes of what it walks.

    `dies` is as under SIGKILL: the session ends and nobody says anything.
    """

    worker: Worker
    session: WorkerSession
    first: Gate
    second: Gate

    async def dies(self) -> None:
        await self.session.aclose()

    async def finishes(self) -> None:
        self.first.open.set()
        self.second.open.set()
        await eventually(lambda: self.worker.active == 0)


@asynccontextmanager
async def life(s: Stages, name: str, *, losses_max: int = 3) -> AsyncIterator[Life]:
    facts = WorkerFacts(name, ("gated",), 10)
    session = WorkerSession(s.database.session("watch"), facts, losses_max=losses_max, settle_s=0.0)
    first, second = Gate(), Gate()
    worker = Worker(
        s.database,
        s.log,
        Agents((gated(first, second),)),
        metrics=s.metrics,
        spans=NO_SPANS,
        worker_id=name,
        settings=OrchestrateSettings(),
    )
    assert await session.hold()
    try:
        yield Life(worker, session, first, second)
    finally:
        await session.aclose()
        await worker.drain(within_s=0)
        await worker.run()


async def taken(by: Life, *, within_s: float = 3.0) -> Taken:
    async def look() -> Taken | None:
        found = await by.session.look()
        return None if found is NOTHING else found

    found = await eventually(look, within_s=within_s)
    assert found is not None
    return found


async def start(s: Stages, *run_ids: str) -> None:
    for run_id in run_ids:
        await s.control.start(StartRequest(agent="gated", run_id=run_id))


async def owners(s: Stages) -> dict[str, str]:
    """The worker of each run that a worker walks."""
    rows = await s.database.fetch(
        "SELECT run_id, lease_owner FROM runs "
        "WHERE lease_until > now() AND lease_owner IN (SELECT worker_id FROM workers)"
    )
    return {row["run_id"]: row["lease_owner"] for row in rows}


async def losses(s: Stages) -> dict[str, int]:
    rows = await s.database.fetch("SELECT run_id, losses FROM run_losses")
    return {row["run_id"]: row["losses"] for row in rows}


async def pause_is_over(s: Stages) -> None:
    await s.database.execute("UPDATE run_losses SET not_before = now()")


async def look_for_s(by: Life, seconds: float) -> list[Taken]:
    """The results of looking repeatedly for so many seconds."""
    loop = asyncio.get_running_loop()
    until, found = loop.time() + seconds, []
    while loop.time() < until:
        found.append(await by.session.look())
        await asyncio.sleep(0.02)  # the period, not a wait for a fact
    return found


async def test_a_worker_whose_session_is_gone_loses_its_runs_at_once(database: str) -> None:
    async with stages(database, ANY) as s:
        await start(s, "r1")
        async with life(s, "a") as a, life(s, "b") as b:
            assert await a.worker.claim() == 1
            await a.first.entered.wait()
            await b.session.look()
            assert await b.worker.claim() == 0  # the lease is 30 s long
            await a.dies()
            found = await taken(b, within_s=1.0)
            assert (found.workers, found.agents, found.runs) == (("a",), frozenset({"gated"}), 1)
            assert await b.worker.claim() == 1
            await b.finishes()
        assert [label for _, _, label in await s.events("r1")][:3] == [None, "First", "orchestrator.resumed"]
        view = await s.control.view("r1")
        assert (view.state, view.attempt) == ("finished", 2)


async def test_a_session_that_was_cut_and_came_back_loses_nothing(database: str) -> None:
    async with stages(database, ANY) as s:
        await start(s, "r1")
        async with life(s, "a") as a, life(s, "b") as b:
            await a.worker.claim()
            await a.first.entered.wait()
            cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'runwire watch'"
            await s.database.execute(cut + " AND datname = current_database()")
            await eventually(lambda: not (a.session.held or b.session.held))
            await b.session.hold()
            await b.session.look()
            assert await a.session.hold()
            assert set(await look_for_s(b, 0.6)) == {NOTHING}
            assert await owners(s) == {"r1": "a"}
            assert await losses(s) == {}
            await a.finishes()


async def test_a_worker_taken_for_dead_that_lives_keeps_what_nobody_claimed_and_its_runs_are_acquitted(
    database: str,
) -> None:
    async with stages(database, ANY) as s:
        await start(s, "r1")
        async with life(s, "a") as a, life(s, "b") as b:
            await a.worker.claim()
            await a.first.entered.wait()
            await a.dies()
            await taken(b)
            assert await losses(s) == {"r1": 1}
            assert await a.session.hold()  # it was a partition
            assert await losses(s) == {"r1": 0}
            assert await owners(s) == {"r1": "a"}
            assert await b.worker.claim() == 0
            await a.finishes()
        assert (await s.control.view("r1")).attempt == 1


async def test_a_worker_that_leaves_is_looked_for_by_nobody(database: str) -> None:
    async with stages(database, ANY) as s, life(s, "a") as a, life(s, "b") as b:
        await a.session.leave()
        await a.session.aclose()
        assert set(await look_for_s(b, 0.6)) == {NOTHING}


async def test_all_of_twenty_workers_are_found_dead_by_the_one_that_is_left(database: str) -> None:
    async with stages(database, ANY) as s, life(s, "m") as left:
        for n in range(20):
            facts = WorkerFacts(f"w{n:02}", (), 1)
            other = WorkerSession(s.database.session("watch"), facts)
            assert await other.hold()
            await other.aclose()
        dead: set[str] = set()
        while len(dead) < 20:
            dead |= set((await taken(left)).workers)
        assert await s.database.fetchval("SELECT array_agg(worker_id) FROM workers") == ["m"]


async def test_a_run_that_kills_its_workers_is_found_by_halves_and_no_other_is_failed(database: str) -> None:
    """Four suspects: two that came first kill their worker, so each of the two is alone next. The other two do not."""
    async with stages(database, ANY) as s, life(s, "looker") as looker:
        await start(s, "poison", "b1", "b2", "b3")
        async with AsyncExitStack() as lives:
            w1, w2, w3, w4, w5, w6 = [await lives.enter_async_context(life(s, f"w{n}")) for n in range(1, 7)]
            assert await w1.worker.claim() == 4
            await w1.dies()
            await taken(looker)
            assert await losses(s) == dict.fromkeys(("poison", "b1", "b2", "b3"), 1)
            assert await w2.worker.claim() == 4  # a first loss costs no time
            await w2.dies()
            await taken(looker)
            assert await losses(s) == dict.fromkeys(("poison", "b1", "b2", "b3"), 2)
            assert await w3.worker.claim() == 0  # now there is a pause
            await pause_is_over(s)
            await s.database.execute("UPDATE run_losses SET lost_at = now() - interval '1 s' WHERE run_id = 'poison'")
            assert await w3.worker.claim() == 2  # and half of the suspects at a time
            assert await w3.worker.claim() == 0
            assert await owners(s) == {"poison": "w3", "b1": "w3"}
            await w3.dies()
            await taken(looker)
            assert await losses(s) == dict.fromkeys(("poison", "b1", "b2", "b3"), 2)
            await pause_is_over(s)
            assert await w4.worker.claim() == 2  # the other half, which came first
            assert await owners(s) == {"b2": "w4", "b3": "w4"}
            await w4.finishes()
            await s.database.execute("UPDATE run_losses SET lost_at = now() - interval '1 s' WHERE run_id = 'poison'")
            assert await w5.worker.claim() == 1
            assert await owners(s) == {"poison": "w5"}
            await w5.dies()
            await taken(looker)
            assert await losses(s) == {"poison": 3, "b1": 2}
            assert await w6.worker.claim() == 2  # the poison, to be failed, and the last suspect
            await eventually(lambda: w6.worker.active == 1)
            view = await s.control.view("poison")
            assert (view.state, view.error_code) == ("failed", "worker_lost")
            told = [(type_, label) for _, type_, label in await s.events("poison")]
            assert told[-2:] == [("DebugTrace", "error:worker_lost:orchestrator"), ("RunFinished", None)]
            await w6.finishes()
        for run_id in ("b1", "b2", "b3"):
            assert (await s.control.view(run_id)).state == "finished"


async def test_ten_runs_whose_worker_was_killed_twice_go_on_in_two_halves(database: str) -> None:
    async with stages(database, ANY) as s, life(s, "looker") as looker:
        await start(s, *(f"r{number}" for number in range(10)))
        async with life(s, "w1") as w1, life(s, "w2") as w2, life(s, "w3") as w3:
            for each in (w1, w2):
                assert await each.worker.claim() == 10
                await each.dies()
                await taken(looker)
            await pause_is_over(s)
            assert await w3.worker.claim() == 5
            w3.first.open.set()
            await w3.second.entered.wait()

            async def all_are_walked() -> bool:
                await w3.worker.claim()
                return w3.worker.active == 10

            await eventually(all_are_walked)
            await w3.finishes()
        assert await losses(s) == dict.fromkeys((f"r{number}" for number in range(10)), 2)


async def test_a_run_that_goes_on_between_two_losses_is_no_suspect(database: str) -> None:
    async with stages(database, ANY) as s, life(s, "looker") as looker:
        await start(s, "r1")
        async with life(s, "w1") as w1, life(s, "w2") as w2, life(s, "w3") as w3:
            for each in (w1, w2):
                each.first.open.set()
                assert await each.worker.claim() == 1
                await each.second.entered.wait()
                await each.dies()
                await taken(looker)
            # Its first node was finished before the first loss; the second was lost twice.
            assert await losses(s) == {"r1": 2}
            await s.database.execute("UPDATE run_checkpoints SET seq = seq + 100")  # as if it had finished another
            await pause_is_over(s)
            assert await w3.worker.claim() == 1
            await w3.second.entered.wait()
            await w3.dies()
            await taken(looker)
            assert await losses(s) == {"r1": 1}


async def test_when_two_suspects_were_there_neither_is_blamed(database: str) -> None:
    async with stages(database, ANY) as s, life(s, "looker") as looker:
        await start(s, "r1", "r2")
        async with life(s, "w1") as w1, life(s, "w2") as w2, life(s, "w3") as w3:
            for each in (w1, w2):
                assert await each.worker.claim() == 2
                await each.dies()
                await taken(looker)
            await pause_is_over(s)
            assert await w3.worker.claim() == 1
            await s.database.execute("UPDATE run_losses SET taken_at = taken_at - interval '61 s'")  # a minute passes
            assert await w3.worker.claim() == 1
            await w3.dies()
            await taken(looker)
            assert await losses(s) == {"r1": 2, "r2": 2}
            alone = await s.database.fetch("SELECT alone_s FROM run_losses")
            assert [row["alone_s"] for row in alone] == [120, 120]


async def test_a_worker_that_ends_because_of_one_run_gives_the_others_back_and_only_that_one_counts(
    database: str,
) -> None:
    async with stages(database, ANY) as s, life(s, "looker") as looker:
        await start(s, "stands", "beside")
        async with life(s, "w1") as w1:
            assert await w1.worker.claim() == 2
            assert await w1.session.own_up(w1.worker.held(), culprit="stands") == {"gated"}
            assert await owners(s) == {"stands": "w1"}
            await w1.dies()
            assert (await taken(looker)).runs == 1
            assert await losses(s) == {"stands": 1}
