from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import asyncpg
import pytest
from opentelemetry.sdk import resources
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from runwire.errors import BusUnavailable, DatabaseUnavailable, InvalidRequest
from runwire.telemetry.asyncpg_spans import instrument_asyncpg, suppressed
from runwire.telemetry.span import NO_SPAN
from runwire.telemetry.spans import NO_SPANS
from runwire.telemetry.traceparent import TraceContext, mint_trace, parse_traceparent, sampled_trace_id
from runwire.telemetry.tracing import Tracing, exporter_from_environment
from telemetry.tables import TRACING, code, declared_attributes, table

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
UNSAMPLED = f"00-{TRACE}-{SPAN}-00"


class Recorded:
    def __init__(self, *, ratio: float = 0.0) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracing = Tracing(self.exporter, dropped=lambda _: None, ratio=ratio, version="1.2.3")

    def spans(self) -> dict[str, ReadableSpan]:
        assert self.tracing.flush(within_s=5)
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    recorded = Recorded()
    yield recorded
    recorded.tracing.shutdown()


def ids(span: ReadableSpan) -> str:
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"


def parent_id(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


# -- traceparent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "flags"),
    [
        (SAMPLED, 1),
        (UNSAMPLED, 0),
        (f"00-{TRACE}-{SPAN}-03", 3),
        (f"00-{TRACE}-{SPAN}-ff", 3),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", 1),
        (f"cc-{TRACE}-{SPAN}-01", 1),
    ],
)
def test_a_well_formed_traceparent_is_read_whatever_its_version(header: str, flags: int) -> None:
    found = parse_traceparent(header)
    assert found == TraceContext(TRACE, SPAN, flags)
    assert found.sampled == bool(flags & 1)
    assert str(found) == f"00-{TRACE}-{SPAN}-{flags:02x}"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "01",
        SAMPLED.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{SAMPLED}-more",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f" {SAMPLED}",
        f"{SAMPLED}\n",
        f"00_{TRACE}_{SPAN}_01",
    ],
)
def test_a_malformed_traceparent_is_as_good_as_none(header: str | None) -> None:
    assert parse_traceparent(header) is None


def test_only_a_sampled_run_has_an_exemplar() -> None:
    assert sampled_trace_id(SAMPLED) == TRACE
    assert sampled_trace_id(UNSAMPLED) is None
    assert sampled_trace_id(None) is None


def test_minted_traceparents_are_well_formed_and_differ() -> None:
    minted = [str(mint_trace(sampled=True)) for _ in range(100)]
    assert len(set(minted)) == 100
    assert all(parse_traceparent(one) and sampled_trace_id(one) for one in minted)


# -- which runs are sampled, and where their spans go -----------------------------------------------------------


def test_a_run_keeps_its_caller_s_trace_and_its_decision(recorded: Recorded) -> None:
    assert recorded.tracing.start_run_trace(SAMPLED) == SAMPLED
    assert recorded.tracing.start_run_trace(UNSAMPLED) == UNSAMPLED
    with recorded.tracing.run_request(UNSAMPLED) as request:
        assert request.traceparent == UNSAMPLED
    assert recorded.spans() == {}
    with recorded.tracing.run_request(SAMPLED) as request:
        pass
    (span,) = recorded.spans().values()
    assert (request.traceparent[:52], parent_id(span)) == (ids(span)[:52], SPAN)


@pytest.mark.parametrize(("ratio", "sampled"), [(0.0, False), (1.0, True)])
def test_without_a_caller_s_trace_the_ratio_decides(ratio: float, sampled: bool) -> None:
    recorded = Recorded(ratio=ratio)
    with recorded.tracing.run_request(None) as request:
        pass
    minted = recorded.tracing.start_run_trace("malformed")
    assert [sampled_trace_id(one) is not None for one in (request.traceparent, minted)] == [sampled, sampled]
    assert len(recorded.spans()) == int(sampled)
    recorded.tracing.shutdown()


def test_the_share_of_sampled_runs_is_the_ratio() -> None:
    recorded = Recorded(ratio=0.5)
    for _ in range(400):
        with recorded.tracing.run_request(None):
            pass
    assert recorded.tracing.flush(within_s=5)
    assert 120 < len(recorded.exporter.get_finished_spans()) < 280
    recorded.tracing.shutdown()


def test_a_run_that_is_not_sampled_gets_the_shared_no_op_everywhere(recorded: Recorded) -> None:
    for traceparent in (UNSAMPLED, None):
        for tracing in (recorded.tracing, NO_SPANS):
            assert tracing.invoke_agent(traceparent, agent="golden", run_id="r") is NO_SPAN
            assert tracing.invoke_node(traceparent, node="Ping", run_id="r") is NO_SPAN
            assert tracing.create_events(traceparent, run_id="r", count=2) is NO_SPAN
            assert tracing.send_events([traceparent], count=2) is NO_SPAN
            assert tracing.process_events(traceparent, run_id="r") is NO_SPAN
            assert tracing.subscribe(traceparent, run_id="r") is NO_SPAN
            assert tracing.backfill(traceparent, run_id="r", after=0) is NO_SPAN
    with NO_SPAN as span:
        span.set("runwire.anything", 1)
        assert span.traceparent is None


def test_without_an_exporter_nothing_is_recorded_or_sampled() -> None:
    tracing = Tracing(None, dropped=lambda _: None, ratio=1.0)
    assert tracing.invoke_node(SAMPLED, node="Ping", run_id="r") is NO_SPAN
    assert sampled_trace_id(tracing.start_run_trace(None)) is None
    assert tracing.run_request(SAMPLED).traceparent == SAMPLED
    assert tracing.flush()
    tracing.shutdown()


def test_the_spans_of_a_run_are_one_tree_of_the_documented_names_kinds_and_attributes() -> None:
    recorded = Recorded(ratio=1.0)
    tracing = recorded.tracing
    with tracing.run_request(None) as request:
        pass
    run = request.traceparent
    with (
        tracing.invoke_agent(run, agent="golden", run_id="r", attempt=2, session="s", earlier=SPAN) as attempt,
        tracing.invoke_node(run, node="Ping", run_id="r"),
        tracing.create_events(run, run_id="r", count=3, requested_by=SAMPLED),
    ):
        pass
    with tracing.send_events([UNSAMPLED, run, None, run], count=4):
        pass
    with tracing.process_events(run, run_id="r"), tracing.subscribe(run, run_id="r"):
        pass
    with tracing.backfill(run, run_id="r", after=7) as backfill:
        backfill.set("runwire.events", 6)
    spans = recorded.spans()
    tracing.shutdown()

    by_row = {"invoke_agent {agent}": "invoke_agent golden", "invoke_node {node}": "invoke_node Ping"}
    of_the_database = {"runwire.{package}.{statement}", "{word}"}
    rows = [row for row in table("Spans", page=TRACING) if code(row[0]) not in of_the_database]
    assert {by_row.get(code(row[0]), code(row[0])) for row in rows} == set(spans)
    for name, kind, _, links, attributes, _ in rows:
        span = spans[by_row.get(code(name), code(name))]
        required, allowed = declared_attributes(attributes)
        assert span.kind == SpanKind[kind], name
        assert bool(span.links) == bool(links), name
        assert required <= set(span.attributes or {}), name
        assert all(attribute.startswith(tuple(allowed)) for attribute in span.attributes or {}), name
        assert f"{span.context.trace_id:032x}" == run[3:35]

    assert parent_id(spans["POST /api/agents/runs"]) is None
    assert parent_id(spans["invoke_agent golden"]) == run[36:52]
    assert attempt.traceparent is not None
    assert parent_id(spans["invoke_node Ping"]) == attempt.traceparent[36:52]
    assert parent_id(spans["create runwire.events"]) == ids(spans["invoke_node Ping"])[36:52]
    (earlier,) = spans["invoke_agent golden"].links
    assert f"{earlier.context.span_id:016x}" == SPAN
    (asked,) = spans["create runwire.events"].links
    assert f"{asked.context.trace_id:032x}" == TRACE
    for name in ("send runwire.events", "process runwire.events"):
        (link,) = spans[name].links
        assert f"{link.context.span_id:016x}" == parent_id(spans[name]) == run[36:52]


def test_a_batch_of_many_runs_links_eight_of_them(recorded: Recorded) -> None:
    with recorded.tracing.send_events([str(mint_trace(sampled=True)) for _ in range(20)], count=20):
        pass
    assert len(recorded.spans()["send runwire.events"].links) == 8


def test_a_failed_span_says_which_code_and_never_the_text(recorded: Recorded) -> None:
    prompt = "the user's prompt"
    with pytest.raises(BusUnavailable), recorded.tracing.invoke_node(SAMPLED, node="A", run_id="r"):
        raise BusUnavailable(prompt)
    with pytest.raises(KeyError), recorded.tracing.invoke_node(SAMPLED, node="B", run_id="r"):
        raise KeyError(prompt)
    spans = recorded.spans()
    for name, kind in (("A", "bus_unavailable"), ("B", "KeyError")):
        span = spans[f"invoke_node {name}"]
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes is not None
        assert span.attributes["error.type"] == kind
        assert prompt not in span.to_json()


def test_an_error_of_the_caller_is_none_of_the_request_s_span(recorded: Recorded) -> None:
    refusals: list[tuple[Exception, int, StatusCode]] = [
        (InvalidRequest("no"), 422, StatusCode.UNSET),
        (DatabaseUnavailable("no"), 503, StatusCode.ERROR),
        (KeyError("no"), 500, StatusCode.ERROR),
    ]
    for error, status, marked in refusals:
        with pytest.raises(type(error)), recorded.tracing.run_request(SAMPLED):
            raise error
        span = recorded.spans()["POST /api/agents/runs"]
        assert span.attributes is not None
        assert span.attributes["http.response.status_code"] == status
        assert span.status.status_code is marked
        assert ("error.type" in span.attributes) == (marked is StatusCode.ERROR)


def test_a_lost_turn_is_told_of_with_its_own_id_its_times_and_its_worker(recorded: Recorded) -> None:
    recorded.tracing.lost_attempt(
        SAMPLED,
        agent="golden",
        run_id="r",
        attempt=1,
        worker_id="w1",
        span_id="00f067aa0ba902b7",
        from_us=1_000_000,
        until_us=3_000_000,
    )
    recorded.tracing.lost_attempt(
        UNSAMPLED, agent="x", run_id="r", attempt=1, worker_id="w1", span_id="1", from_us=1, until_us=3
    )
    (span,) = recorded.spans().values()
    assert ids(span) == f"00-{TRACE}-00f067aa0ba902b7-01"
    assert (span.start_time, span.end_time) == (1_000_000_000, 3_000_000_000)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert (span.attributes["error.type"], span.attributes["runwire.worker"]) == ("lease_lost", "w1")
    with recorded.tracing.invoke_node(SAMPLED, node="A", run_id="r"):
        pass
    assert ids(recorded.spans()["invoke_node A"]) != ids(span), "a chosen id is for one span"


def test_a_discarded_span_is_not_sent_and_what_was_in_it_is(recorded: Recorded) -> None:
    with recorded.tracing.invoke_agent(SAMPLED, agent="golden", run_id="r") as turn:
        with recorded.tracing.invoke_node(SAMPLED, node="A", run_id="r"):
            pass
        turn.discard()
    assert set(recorded.spans()) == {"invoke_node A"}


def test_a_span_fails_with_a_code_where_nothing_is_raised(recorded: Recorded) -> None:
    with recorded.tracing.invoke_node(SAMPLED, node="A", run_id="r") as span:
        span.fail("no_stock")
    with NO_SPAN as nothing:
        nothing.fail("no_stock")
        nothing.discard()
    (sent,) = recorded.spans().values()
    assert sent.status.status_code is StatusCode.ERROR
    assert sent.attributes is not None
    assert sent.attributes["error.type"] == "no_stock"


def test_a_cancelled_span_did_not_fail(recorded: Recorded) -> None:
    with pytest.raises(asyncio.CancelledError), recorded.tracing.invoke_node(SAMPLED, node="A", run_id="r"):
        raise asyncio.CancelledError
    assert recorded.spans()["invoke_node A"].status.status_code is StatusCode.UNSET


def test_the_resource_is_that_of_the_sdk_but_for_what_its_hash_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Tracing(InMemorySpanExporter(), dropped=lambda _: None).provider.resource
    same = Resource(made.attributes, made.schema_url)
    assert made == same
    assert same == made
    known = hash(same)
    monkeypatch.delattr(resources, "dumps")  # it is not worked out again
    assert hash(made) == known


def test_the_resource_names_the_service_unless_the_environment_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def resource() -> dict[str, object]:
        tracing = Tracing(None, dropped=lambda _: None, version="1.2.3", roles=["api", "worker"])
        return dict(tracing.provider.resource.attributes)

    assert resource()["service.name"] == "runwire"
    assert resource()["service.version"] == "1.2.3"
    assert resource()["service.instance.id"] != resource()["service.instance.id"]
    assert resource()["runwire.roles"] == ("api", "worker")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "crew")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    assert resource()["service.name"] == "crew"
    assert resource()["deployment.environment.name"] == "test"


# -- export -----------------------------------------------------------------------------------------------------


class Stuck(SpanExporter):
    """A collector that takes nothing until it is told to."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        del spans
        self.entered.set()
        self.go_on.wait(30)
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        pass


def end_spans(tracing: Tracing, count: int) -> None:
    for _ in range(count):
        with tracing.invoke_node(SAMPLED, node="A", run_id="r"):
            pass


def test_a_stuck_collector_holds_up_neither_the_work_nor_the_end_and_what_it_cost_is_counted() -> None:
    stuck = Stuck()
    dropped: list[int] = []
    tracing = Tracing(stuck, dropped=dropped.append, queue_spans=10)
    end_spans(tracing, 1)
    assert not tracing.flush(within_s=0.05)
    assert stuck.entered.wait(5)
    end_spans(tracing, 25)
    assert sum(dropped) == 15
    before = time.monotonic()
    tracing.shutdown()
    assert time.monotonic() - before < 1.0
    assert sum(dropped) == 25
    end_spans(tracing, 1)
    assert sum(dropped) == 26
    stuck.go_on.set()


@pytest.mark.parametrize("listening", [False, True], ids=["refusing", "silent"])
async def test_a_dead_collector_does_not_keep_the_process_from_ending_within_a_second(
    listening: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as collector:
        collector.bind(("127.0.0.1", 0))
        if listening:
            collector.listen()
        port = collector.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        exporter = exporter_from_environment()
        assert exporter is not None
        dropped: list[int] = []
        tracing = Tracing(exporter, dropped=dropped.append)
        end_spans(tracing, 1500)
        before = time.monotonic()
        await tracing.aclose()
        assert time.monotonic() - before < 1.0
        assert sum(dropped) > 0


@pytest.mark.parametrize(
    ("environment", "exports"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_variables_say_whether_spans_are_exported(environment: dict[str, str], exports: bool) -> None:
    exporter = exporter_from_environment(environment)
    assert (exporter is not None) == exports
    if exporter is not None:
        exporter.shutdown()


# -- database spans ---------------------------------------------------------------------------------------------


async def test_queries_have_spans_inside_a_sampled_span_and_nowhere_else(recorded: Recorded, postgres_dsn: str) -> None:
    take_back = instrument_asyncpg(recorded.tracing.provider)
    try:
        connection = await asyncpg.connect(postgres_dsn)
        await connection.fetchval("SELECT 1")
        with recorded.tracing.invoke_node(UNSAMPLED, node="Quiet", run_id="r"):
            await connection.fetchval("SELECT 2")
        assert recorded.spans() == {}
        with recorded.tracing.invoke_node(SAMPLED, node="Ping", run_id="r"):
            await connection.fetchval("SELECT 3")
            await connection.fetchval("/* runwire.shop.prices */ -- what it gives\nVALUES (3)")
            with suppressed():
                await connection.execute("VALUES (4)")
                await (await connection.prepare("VALUES (5)")).fetch()
                await connection.executemany("VALUES ($1::int)", [(6,)])
            with pytest.raises(asyncpg.DataError):
                await connection.fetchval("DELETE FROM pg_class WHERE 'a secret'::int = 1")
        await connection.close()
    finally:
        take_back()
    spans = recorded.spans()
    assert set(spans) == {"invoke_node Ping", "SELECT", "DELETE", "runwire.shop.prices"}
    assert parent_id(spans["SELECT"]) == ids(spans["invoke_node Ping"])[36:52]
    assert spans["DELETE"].status.status_code is StatusCode.ERROR
    assert spans["DELETE"].status.description is None
    assert not spans["DELETE"].events


async def test_taking_the_instrumentation_back_restores_asyncpg(recorded: Recorded) -> None:
    before = asyncpg.Connection.fetch
    take_back = instrument_asyncpg(recorded.tracing.provider)
    assert asyncpg.Connection.fetch is not before
    instrument_asyncpg(recorded.tracing.provider)()
    assert asyncpg.Connection.fetch is not before
    take_back()
    assert asyncpg.Connection.fetch == before
