"""One trace from the request to the delivery, through three processes, at a real backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

import runwire
from runwire.model.event import Event
from runwire.telemetry.traceparent import mint_trace, with_span
from traces.backend import SentSpan, TraceBackend
from traces.shape import named, only, orphans, told_twice, undocumented
from traces.traced_fleet import told, traced_fleet

pytestmark = [pytest.mark.crash, pytest.mark.timeout(420)]  # the first one installs the backend

MESSAGES = "messaging.batch.message_count"


async def _followed(url: str, agent: str, *, traceparent: str | None = None, **given: Any) -> list[Event]:
    async with runwire.Client(url) as client:
        run = await client.start(agent, input=given, traceparent=traceparent)
        return [event async for event in client.stream(run)]


def _children(spans: list[SentSpan], of: SentSpan) -> list[str]:
    return [span.name for span in spans if span.parent_id == of.span_id]


async def test_a_run_is_one_trace_from_its_request_to_its_first_delivery_through_every_process(
    database: str, tmp_path: Path, traces: TraceBackend
) -> None:
    caller = mint_trace(sampled=True)
    async with traced_fleet("api", "worker", "publisher", database=database, logs=tmp_path, to=traces) as fleet:
        api, worker, _ = fleet.members
        events = await _followed(api.url, "order", traceparent=str(caller))
        run_id = events[0].run_id
        async with runwire.Client(api.url) as client:
            assert (await client.run(run_id)).trace_id == caller.trace_id
            assert (await client.diagnosis(run_id)).evidence["traceId"] == caller.trace_id
        await told(fleet)
        assert fleet.errors() == []
    spans = traces.spans()
    assert {span.trace_id for span in spans} == {caller.trace_id}
    assert orphans(spans, caller=caller.span_id) == []
    assert told_twice(spans) == []
    assert undocumented(spans) == []

    request = only(spans, "POST /api/agents/runs")
    assert request.parent_id == caller.span_id
    assert (request.role, request.attributes["runwire.run_id"]) == ("api", run_id)
    assert "runwire.orchestrate.start" in _children(spans, request)

    turn = only(spans, "invoke_agent order")
    assert (turn.parent_id, turn.role, turn.links, turn.failed) == (request.span_id, "worker", (), False)
    assert turn.attributes["runwire.outcome"] == "finished"
    assert str(turn.attributes["runwire.worker"]).startswith(f"{worker.name}:")  # with what tells its starts apart

    look, say = named(spans, "invoke_node")
    assert [look.name, say.name] == ["invoke_node Look", "invoke_node Say"]
    assert {look.parent_id, say.parent_id} == {turn.span_id}
    assert "SELECT" in _children(spans, look)
    asked = next(span for span in spans if span.name == "SELECT")
    assert {"db.system.name", "db.query.text"} <= set(asked.attributes)
    assert "db.statement" not in asked.attributes
    assert _children(spans, say) == ["create runwire.events"], "what a node says on its way"

    created = named(spans, "create runwire.events")
    assert {span.role for span in created} == {"worker"}
    assert {span.parent_id for span in created} == {turn.span_id, say.span_id}
    assert sum(span.attributes[MESSAGES] for span in created) == len(events)

    sent = named(spans, "send runwire.events")
    assert {span.role for span in sent} == {"publisher"}
    assert {span.parent_id for span in sent} == {request.span_id}
    assert {span.links for span in sent} == {((caller.trace_id, request.span_id),)}
    assert sum(span.attributes[MESSAGES] for span in sent) == len(events)

    delivered = only(spans, "process runwire.events")
    assert (delivered.role, delivered.parent_id) == ("api", request.span_id)
    assert delivered.links == ((caller.trace_id, request.span_id),)
    assert delivered.start_ns >= min(span.start_ns for span in sent)
    for name in ("subscribe", "backfill"):
        assert (only(spans, name).parent_id, only(spans, name).role) == (request.span_id, "api")

    by_role = {span.role: span.resource for span in spans}
    assert set(by_role) == {"api", "worker", "publisher"}
    assert len({resource["service.instance.id"] for resource in by_role.values()}) == 3
    for resource in by_role.values():
        assert resource["service.name"] == "runwire"
        assert resource["service.version"] == runwire.__version__
        assert resource["process.pid"] > 0
        assert resource["host.name"]

    ids = {span.span_id: span.name for span in spans}
    lines = {line["event"]: line for line in worker.lines() if line.get("run_id") == run_id}
    assert {"run_started", "node_started", "node_finished", "run_finished"} <= set(lines)
    for line in lines.values():
        assert line["trace_id"] == caller.trace_id
        assert ids[line["span_id"]] == turn.name


async def test_a_run_of_an_external_orchestrator_is_one_trace_from_its_requests_to_its_first_delivery(
    database: str, tmp_path: Path, traces: TraceBackend
) -> None:
    caller = mint_trace(sampled=True)
    step = "00f067aa0ba902b7"
    async with traced_fleet("api", "publisher", database=database, logs=tmp_path, to=traces) as fleet:
        runs = f"{fleet.members[0].url}/api/agents/runs"
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            start = {"agent": "theirs", "runId": "r", "external": True}
            async with session.post(runs, json=start, headers={"traceparent": str(caller)}) as accepted:
                fence = {"Runwire-Fence": str((await accepted.json())["fence"])}
            first = {"events": [{"type": "RunStarted"}, {"type": "NodeStarted", "name": "Import"}]}
            await session.post(f"{runs}/r/events", json=first, headers=fence)
            last = {"events": [{"type": "RunFinished"}], "outcome": "finished"}
            within = {"traceparent": with_span(str(caller), step)}
            await session.post(f"{runs}/r/events", json=last, headers=fence | within)
        async with runwire.Client(fleet.members[0].url) as client:
            assert [event.seq async for event in client.stream("r")] == [1, 2, 3]
        await told(fleet)
    spans = traces.spans()
    assert {span.trace_id for span in spans} == {caller.trace_id}
    assert undocumented(spans) == []
    request = only(spans, "POST /api/agents/runs")
    created = named(spans, "create runwire.events")
    assert [(span.parent_id, span.role, span.attributes[MESSAGES]) for span in created] == [
        (request.span_id, "api", 2), (step, "api", 1),
    ]  # fmt: skip
    assert sum(span.attributes[MESSAGES] for span in named(spans, "send runwire.events")) == 3
    assert only(spans, "process runwire.events").parent_id == request.span_id
    assert [span for span in orphans(spans, caller=caller.span_id) if span != "create runwire.events"] == []


async def test_a_node_that_fails_is_red_and_so_is_its_run(database: str, tmp_path: Path, traces: TraceBackend) -> None:
    caller = mint_trace(sampled=True)
    async with traced_fleet("api", "worker", "publisher", database=database, logs=tmp_path, to=traces) as fleet:
        await _followed(fleet.members[0].url, "order", traceparent=str(caller), broken=True)
        await told(fleet)
    spans = traces.spans(caller.trace_id)
    failed = {span.name: span.attributes["error.type"] for span in spans if span.failed}
    assert failed == {"invoke_node Say": "no_stock", "invoke_agent order": "no_stock"}
    assert undocumented(spans) == []


async def test_the_caller_decides_and_what_is_not_sampled_sends_nothing(
    database: str, tmp_path: Path, traces: TraceBackend
) -> None:
    asked = [mint_trace(sampled=True) for _ in range(3)]
    sampled = {str(caller): caller.trace_id for caller in asked}
    declined = [mint_trace(sampled=False) for _ in range(3)]
    async with traced_fleet("api", "worker", "publisher", database=database, logs=tmp_path, to=traces) as fleet:
        url = fleet.members[0].url
        for given in (*sampled, *map(str, declined), None, None, None, "malformed"):
            events = await _followed(url, "golden", traceparent=given)
            assert len(events) == 13
            async with runwire.Client(url) as client:
                view = await client.run(events[0].run_id)
            assert view.trace_id == sampled.get(given or "")
        await told(fleet)
    spans = traces.spans()
    assert {span.trace_id for span in spans} == {caller.trace_id for caller in asked}
    for caller in asked:
        mine = [span for span in spans if span.trace_id == caller.trace_id]
        assert len(named(mine, "invoke_node")) == 5
        assert orphans(mine, caller=caller.span_id) == []
