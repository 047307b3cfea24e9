"""A worker's attempt at a run: what a claim brings, and which span tells of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pipeline import Stages, stages
from runwire.append import Change, Checkpoint
from runwire.db import Database, load_sql
from runwire.errors import FenceStale
from runwire.model.event import RUN_STARTED, Source, debug_trace, node_finished
from runwire.model.graph import END, Agent, Context, Wait
from runwire.model.run import RunState
from runwire.orchestrate import StartRequest
from runwire.telemetry.traceparent import mint_trace
from runwire.telemetry.tracing import Tracing
from waiting import eventually

CLAIM = load_sql("runwire.orchestrate", "orchestrate.sql")["claim"]
CLAIMS = 300


def steps() -> Agent[dict[str, Any]]:
    """Two nodes; the first waits for `go` in between."""
    agent = Agent("steps", start="First", state=dict[str, Any])

    @agent.node(to="Second")
    async def first(_ctx: Context, _state: dict[str, Any]) -> Wait:
        return Wait("go", then="Second")

    @agent.node(to=END)
    async def second(_ctx: Context, _state: dict[str, Any]) -> None:
        pass

    return agent


class Gate:
    """An agent of one node, which is `entered` and goes on when it may; and of one more, `then`, which does nothing."""

    def __init__(self, *, then: str = END) -> None:
        self.entered, self.may_go_on = asyncio.Event(), asyncio.Event()
        self.agent: Agent[dict[str, Any]] = Agent("steps", start="Only", state=dict[str, Any])

        @self.agent.node(to=then)
        async def only(_ctx: Context, _state: dict[str, Any]) -> None:
            self.entered.set()
            await self.may_go_on.wait()

        if then != END:

            @self.agent.node(name=then, to=END)
            async def after(_ctx: Context, _state: dict[str, Any]) -> None:
                pass


class Recorder:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracing = Tracing(self.exporter, dropped=lambda _: None, ratio=0.0)

    def turns(self) -> list[ReadableSpan]:
        assert self.tracing.flush(within_s=5)
        spans = [span for span in self.exporter.get_finished_spans() if span.name.startswith("invoke_agent")]
        return sorted(spans, key=lambda span: span.start_time or 0)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.tracing.shutdown()


async def started(s: Stages, *, sampled: bool) -> str:
    request = StartRequest(agent="steps", traceparent=str(mint_trace(sampled=sampled)), sampled=sampled)
    return (await s.control.start(request)).run_id


async def stored_span(s: Stages, run_id: str) -> str | None:
    span: str | None = await s.database.fetchval("SELECT attempt_span FROM runs WHERE run_id = $1", run_id)
    return span


async def walked(s: Stages, recorder: Recorder, *, worker_id: str) -> None:
    worker = s.worker(worker_id=worker_id, spans=recorder.tracing)
    assert await worker.claim() == 1
    await eventually(lambda: worker.active == 0)


def span_id(span: ReadableSpan) -> str:
    return f"{span.context.span_id:016x}"


def outcomes(recorder: Recorder) -> list[tuple[object, object]]:
    found = [turn.attributes or {} for turn in recorder.turns()]
    return [(of["runwire.worker"], of["runwire.outcome"]) for of in found]


def linked_to(span: ReadableSpan) -> list[str]:
    return [f"{link.context.span_id:016x}" for link in span.links]


async def test_the_turn_s_span_has_the_id_its_claim_stored(database: str, recorder: Recorder) -> None:
    async with stages(database, steps()) as s:
        run_id = await started(s, sampled=True)
        await walked(s, recorder, worker_id="w1")
        (turn,) = recorder.turns()
        assert span_id(turn) == await stored_span(s, run_id)
        assert turn.attributes is not None
        assert (turn.attributes["runwire.worker"], turn.attributes["runwire.outcome"]) == ("w1", "waiting")
        assert linked_to(turn) == []


async def test_after_a_wait_the_next_turn_is_linked_to_the_one_before(database: str, recorder: Recorder) -> None:
    async with stages(database, steps()) as s:
        run_id = await started(s, sampled=True)
        await walked(s, recorder, worker_id="w1")
        await s.control.signal(run_id, "go")
        await walked(s, recorder, worker_id="w2")
        before, after = recorder.turns()
        assert linked_to(after) == [span_id(before)]
        assert [turn.attributes and turn.attributes["runwire.attempt"] for turn in (before, after)] == [1, 1]
        assert before.status.is_unset


async def test_a_worker_that_died_before_the_run_began_is_told_of_too(database: str, recorder: Recorder) -> None:
    async with stages(database, steps()) as s:
        run_id = await started(s, sampled=True)
        await s.database.fetch(CLAIM, ["steps"], 1, "dead", 0.0)
        promised = await stored_span(s, run_id)
        await walked(s, recorder, worker_id="w2")
        lost, turn = recorder.turns()
        assert span_id(lost) == promised
        assert linked_to(turn) == [promised]
        assert lost.attributes is not None
        assert (lost.attributes["runwire.worker"], lost.attributes["runwire.attempt"]) == ("dead", 1)
        assert lost.end_time is not None
        assert turn.start_time is not None
        assert lost.end_time <= turn.start_time


async def test_a_turn_whose_append_was_refused_is_told_of_once_by_who_goes_on(
    database: str, recorder: Recorder
) -> None:
    gate = Gate()
    async with stages(database, gate.agent) as s:
        run_id = await started(s, sampled=True)
        worker = s.worker(worker_id="w1", spans=recorder.tracing)
        assert await worker.claim() == 1
        await gate.entered.wait()
        # The worker does not know of this event, so its next append names the wrong seq.
        await s.log.append(run_id, [debug_trace("somebody.else")], fence=1, source=Source.WORKER)
        gate.may_go_on.set()
        await eventually(lambda: worker.active == 0)
        assert recorder.turns() == []
        await s.database.execute("UPDATE runs SET lease_until = now() - interval '1 second'")
        await walked(s, recorder, worker_id="w2")
        assert outcomes(recorder) == [("w1", "lost"), ("w2", "finished")]


async def test_a_turn_that_is_cut_short_by_a_stop_was_handed_over(database: str, recorder: Recorder) -> None:
    gate = Gate()
    async with stages(database, gate.agent) as s:
        await started(s, sampled=True)
        worker = s.worker(worker_id="w1", spans=recorder.tracing)
        working = asyncio.create_task(worker.run())
        await gate.entered.wait()
        await worker.drain(within_s=0)
        await working
        gate.may_go_on.set()
        await walked(s, recorder, worker_id="w2")
        assert outcomes(recorder) == [("w1", "handed_over"), ("w2", "finished")]
        first, second = recorder.turns()
        assert linked_to(second) == [span_id(first)]


@pytest.mark.parametrize("within_s", [0.0, 10.0], ids=["cut short", "between two nodes"])
async def test_a_turn_that_cannot_be_handed_over_is_told_of_once_by_who_goes_on(
    database: str, recorder: Recorder, within_s: float
) -> None:
    """The database is away when the worker stops: the lease stays the worker's, as if it had died."""
    gate = Gate(then="After")
    async with stages(database, gate.agent) as s:
        await started(s, sampled=True)
        async with Database(database, pool_size=2) as away:
            worker = s.worker(worker_id="w1", spans=recorder.tracing, database=away)
            working = asyncio.create_task(worker.run())
            await gate.entered.wait()
        draining = asyncio.create_task(worker.drain(within_s=within_s))
        if within_s:
            gate.may_go_on.set()
        await draining
        await working
        gate.may_go_on.set()
        assert recorder.turns() == []
        await s.database.execute("UPDATE runs SET lease_until = now() - interval '1 second'")
        await walked(s, recorder, worker_id="w2")
        assert outcomes(recorder) == [("w1", "lost"), ("w2", "finished")]


async def test_a_run_that_is_not_sampled_stores_no_span(database: str, recorder: Recorder) -> None:
    async with stages(database, steps()) as s:
        run_id = await started(s, sampled=False)
        await walked(s, recorder, worker_id="w1")
        row = await s.database.fetchrow("SELECT attempt, attempt_span, attempt_at FROM runs WHERE run_id = $1", run_id)
        assert row is not None
        assert tuple(row) == (1, None, None)
        assert recorder.turns() == []


async def test_a_claim_is_one_statement_whatever_it_brings(
    database: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were there a second one, a database that went in between would leave the run claimed and not walked."""
    async with stages(database, steps()) as s:
        run_id = await started(s, sampled=True)
        await walked(s, recorder, worker_id="w1")
        await s.control.signal(run_id, "go")
        asked: list[str] = []
        fetch = s.database.fetch

        async def counted(sql: str, *args: object) -> Any:
            asked.append(sql)
            return await fetch(sql, *args)

        monkeypatch.setattr(s.database, "fetch", counted)
        await walked(s, recorder, worker_id="w2")
        assert asked == [CLAIM]
        assert (await s.control.view(run_id)).state is RunState.FINISHED


async def test_a_claim_never_brings_a_checkpoint_older_than_the_log(database: str) -> None:
    """The owner's lease has ended, and it appends all the same, until the next claim has fenced it out."""
    async with stages(database, steps()) as s:
        run_id = await started(s, sampled=False)
        (claimed,) = await s.database.fetch(CLAIM, ["steps"], 1, "w", 0.0)
        fence: int = claimed["fence"]
        await s.log.append(run_id, [RUN_STARTED], fence=fence, source=Source.WORKER, change=Change(RunState.STARTED))
        seq = 1
        done, moved = asyncio.Event(), asyncio.Event()
        rng = random.Random(11)

        async def append() -> None:
            nonlocal fence, seq
            while not done.is_set():
                checkpoint = Checkpoint("First", str(seq + 1), b"{}")
                with suppress(FenceStale):
                    appended = await s.log.append(
                        run_id, [node_finished("First")], fence=fence, source=Source.WORKER, checkpoint=checkpoint
                    )
                    seq = appended.last_seq
                    moved.set()

        appending = asyncio.create_task(append())
        try:
            for _ in range(CLAIMS):
                await asyncio.wait_for(moved.wait(), 10)
                moved.clear()
                await asyncio.sleep(rng.uniform(0, 0.002))  # any moment of the append that is under way
                for row in await s.database.fetch(CLAIM, ["steps"], 1, "w", 0.0):
                    fence = row["fence"]
                    assert int(row["next_node"]) == row["last_seq"]
        finally:
            done.set()
            await appending
        assert seq > CLAIMS
