"""A worker dies in the middle of a run: the trace goes on, and nothing of it hangs in the air."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

import runwire
from crash.fleet import Fleet, Member
from runwire.client import Client, StartedRun
from runwire.telemetry.traceparent import TraceContext, mint_trace
from traces.backend import SentSpan, TraceBackend
from traces.shape import named, only, orphans, told_twice, undocumented
from traces.traced_fleet import told, traced_fleet
from waiting import eventually

pytestmark = [pytest.mark.crash, pytest.mark.timeout(420)]  # the first one installs the backend

ROLES = ("api", "worker", "worker", "publisher")
NODE_MS = 1000
"""How long each of golden's nodes takes: enough for its spans to be sent before its worker dies."""


async def _started(client: Client, caller: TraceContext) -> StartedRun:
    return await client.start("golden", input={"delay_ms": NODE_MS}, traceparent=str(caller))


async def _walker(fleet: Fleet, run: StartedRun, *, node: str) -> Member:
    """The worker that is in this node of the run."""

    def found() -> Member | None:
        for member in fleet.of("worker"):
            for line in member.lines():
                if (line.get("event"), line.get("run_id"), line.get("node")) == ("node_started", run.run_id, node):
                    return member
        return None

    member = await eventually(found, within_s=30)
    assert member is not None
    return member


async def _sent(traces: TraceBackend, caller: TraceContext, name: str) -> None:
    await eventually(lambda: named(traces.spans(caller.trace_id), name), within_s=30)


async def _ended(client: Client, run: StartedRun) -> None:
    async with asyncio.timeout(60):
        assert [event.type async for event in client.stream(run)][-1] == "RunFinished"


def _turns(spans: Sequence[SentSpan]) -> list[SentSpan]:
    return named(spans, "invoke_agent")


def _nodes(spans: Sequence[SentSpan], turn: SentSpan) -> list[str]:
    return [s.name.removeprefix("invoke_node ") for s in named(spans, "invoke_node") if s.parent_id == turn.span_id]


async def test_after_kill_9_the_run_goes_on_in_the_same_trace_linked_to_the_attempt_that_died(
    database: str, tmp_path: Path, traces: TraceBackend
) -> None:
    caller = mint_trace(sampled=True)
    async with traced_fleet(*ROLES, database=database, logs=tmp_path, to=traces) as fleet:
        async with runwire.Client(fleet.members[0].url) as client:
            run = await _started(client, caller)
            killed = await _walker(fleet, run, node="Warmup")
            await _sent(traces, caller, "invoke_node EnsureDevice")
            killed.kill()
            await _ended(client, run)
            assert (await client.run(run)).attempt == 2
        await told(fleet)
    spans = traces.spans()
    assert {span.trace_id for span in spans} == {caller.trace_id}
    assert orphans(spans, caller=caller.span_id) == []
    assert told_twice(spans) == []
    assert undocumented(spans) == []

    lost, resumed = _turns(spans)
    request = only(spans, "POST /api/agents/runs")
    assert lost.parent_id == resumed.parent_id == request.span_id
    assert resumed.links == ((caller.trace_id, lost.span_id),)
    assert [turn.attributes["runwire.attempt"] for turn in (lost, resumed)] == [1, 2]
    assert [turn.attributes["runwire.outcome"] for turn in (lost, resumed)] == ["lost", "finished"]
    assert (lost.failed, lost.attributes["error.type"]) == (True, "lease_lost")
    assert not resumed.failed
    other = next(member for member in fleet.of("worker") if member is not killed)
    workers = [str(turn.attributes["runwire.worker"]).partition(":")[0] for turn in (lost, resumed)]
    assert workers == [killed.name, other.name]

    first, *again = _nodes(spans, resumed)
    assert (_nodes(spans, lost), first) in ((["EnsureDevice"], "Warmup"), (["EnsureDevice", "Warmup"], "OpenApp"))
    assert again[-2:] == ["Ping", "Teardown"]
    theirs = [span for span in spans if span.parent_id == lost.span_id]
    assert all(lost.start_ns <= span.start_ns <= span.end_ns <= lost.end_ns for span in theirs)
    assert lost.end_ns <= resumed.start_ns, "one owner at a time"
    assert {span.resource["process.pid"] for span in theirs} != {resumed.resource["process.pid"]}


async def test_a_worker_that_was_only_frozen_leaves_its_span_to_the_one_that_went_on(
    database: str, tmp_path: Path, traces: TraceBackend
) -> None:
    caller = mint_trace(sampled=True)
    async with traced_fleet(*ROLES, database=database, logs=tmp_path, to=traces) as fleet:
        async with runwire.Client(fleet.members[0].url) as client:
            run = await _started(client, caller)
            frozen = await _walker(fleet, run, node="Warmup")
            other = next(member for member in fleet.of("worker") if member is not frozen)
            with frozen.frozen():
                await eventually(lambda: any(line["event"] == "run_resumed" for line in other.lines()), within_s=30)
            await eventually(lambda: any(line["event"] == "lease_lost" for line in frozen.lines()), within_s=30)
            await _ended(client, run)
        await told(fleet)
    spans = traces.spans()
    assert told_twice(spans) == []
    assert orphans(spans, caller=caller.span_id) == []
    assert [turn.attributes["runwire.outcome"] for turn in _turns(spans)] == ["lost", "finished"]


async def test_a_worker_that_is_told_to_stop_hands_over_and_the_next_turn_is_linked_too(
    database: str, tmp_path: Path, traces: TraceBackend
) -> None:
    caller = mint_trace(sampled=True)
    async with traced_fleet(*ROLES, database=database, logs=tmp_path, to=traces) as fleet:
        async with runwire.Client(fleet.members[0].url) as client:
            run = await _started(client, caller)
            stopped = await _walker(fleet, run, node="Warmup")
            assert await stopped.terminate() == 0
            await _ended(client, run)
        await told(fleet)
    spans = traces.spans()
    assert told_twice(spans) == orphans(spans, caller=caller.span_id) == undocumented(spans) == []
    first, second = _turns(spans)
    assert [turn.attributes["runwire.outcome"] for turn in (first, second)] == ["handed_over", "finished"]
    assert not first.failed
    assert second.links == ((caller.trace_id, first.span_id),)
    assert (_nodes(spans, first), _nodes(spans, second)) == (
        ["EnsureDevice", "Warmup"],
        ["OpenApp", "Ping", "Teardown"],
    )
