"""Whole processes, several in one loop: they find each other by hints, do without them, and end in order."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import structlog
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

import agents_for_assembly
from nats_server import nats_server
from pipeline import RecordingBus, raw
from runwire.assembly import PLAN, Assembly
from runwire.bus import Bus
from runwire.bus.memory import MemoryBus
from runwire.db import notify
from runwire.errors import ConfigurationError, DatabaseUnavailable
from runwire.process import Context, Step
from runwire.settings import Role, Settings
from runwire.stream import Streams
from waiting import eventually

RUNS = "/api/agents/runs"
# Nothing is found by looking within a test's time: what happens fast happens by a hint.
HINTS_ONLY = {"worker_poll_s": 60.0, "publish_sweep_s": 60.0, "sse_silence_s": 60.0}
FAST_S = 10.0


def settings(database: str, **changes: Any) -> Settings:
    told: dict[str, Any] = {
        "database_url": database,
        "port": 0,
        "admin_port": 0,
        "drain_s": 5.0,
        "agents": ("agents_for_assembly:held",),
        "worker_id": "w1",
    }
    return Settings(**(told | changes))


@pytest.fixture
def hold() -> Iterator[agents_for_assembly.Hold]:
    agents_for_assembly.now.hold = agents_for_assembly.Hold()
    yield agents_for_assembly.now.hold
    del agents_for_assembly.now.hold


@asynccontextmanager
async def split(database: str, **changes: Any) -> AsyncIterator[dict[str, Assembly]]:
    """Four processes with one role each, on what only hints can make fast."""
    told: dict[str, Any] = {"bus": "postgres", **HINTS_ONLY, **changes}
    async with AsyncExitStack() as stack:
        yield {
            role.value: await stack.enter_async_context(Assembly(settings(database, roles=(role,), **told)))
            for role in (Role.PUBLISHER, Role.WORKER, Role.API)
        }


async def start(at: str, headers: dict[str, str] | None = None, **body: Any) -> str:
    async with httpx.AsyncClient(base_url=at, timeout=10) as http:
        response = await http.post(RUNS, json=body, headers=headers)
        assert response.status_code == 202, response.text
        run_id: str = response.json()["runId"]
        return run_id


async def ended(at: str, run_id: str, *, within_s: float = FAST_S) -> dict[str, Any]:
    """The run once it is over and all of it is published."""
    async with httpx.AsyncClient(base_url=at, timeout=10) as http:

        async def over() -> dict[str, Any] | None:
            view: dict[str, Any] = (await http.get(f"{RUNS}/{run_id}")).json()
            return view if view["outcome"] and view["publishedSeq"] == view["lastSeq"] else None

        ended: dict[str, Any] | None = await eventually(over, within_s=within_s)
        assert ended is not None
        return ended


async def streamed(at: str, run_id: str) -> list[int]:
    """The seqs of a run's stream, until it says that this was all."""
    seqs: list[int] = []
    async with (
        httpx.AsyncClient(base_url=at, timeout=FAST_S) as http,
        http.stream("GET", f"{RUNS}/{run_id}/stream") as response,
    ):
        assert response.status_code == 200
        event = False
        async for line in response.aiter_lines():
            if line == "event: end":
                return seqs
            if line.startswith("id: "):
                seqs.append(int(line.removeprefix("id: ")))
            event = event or bool(line)
    raise AssertionError(f"the stream ended early, at {seqs}")


async def all_leased(database: str) -> None:
    """Returns when every shard is some publisher's."""
    look = await raw(database)

    async def none_free() -> bool:
        free: int = await look.fetchval("SELECT count(*) FROM publisher_shards WHERE publisher_id IS NULL")
        return free == 0

    try:
        await eventually(none_free)
    finally:
        await look.close()


async def metric(assembly: Assembly, name: str, **labels: str) -> float:
    """The value of a series at the admin listener."""
    series = name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "")
    async with httpx.AsyncClient(base_url=assembly.admin_url, timeout=10) as http:
        for line in (await http.get("/metrics")).text.splitlines():
            if line.startswith(series + " "):
                return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no series {series}")


# ------------------------------------------------------------------ one process, and several


@pytest.mark.parametrize("bus", ["memory", "postgres", "nats"])
async def test_one_process_of_all_roles_runs_golden_and_streams_it(database: str, bus: str) -> None:
    async with nats_server() if bus == "nats" else contextlib.nullcontext() as nats:
        if nats is not None:
            bus = nats.url
        await _golden_by_hints_alone(database, bus)


async def _golden_by_hints_alone(database: str, bus: str) -> None:
    async with Assembly(settings(database, bus=bus, **HINTS_ONLY)) as process:
        if bus != "memory":
            await all_leased(database)  # a hint is of use to whose shard the run is of
        run_id = await start(process.url)
        assert await streamed(process.url, run_id) == list(range(14))  # 0 is the client's own cursor
        view = await ended(process.url, run_id)
        assert (view["state"], view["lastSeq"]) == ("finished", 13)
        assert await metric(process, "runwire_outbox_wakeups_total", by="local") > 0
        assert await metric(process, "runwire_outbox_wakeups_total", by="poll") == 0


async def test_processes_of_one_role_each_work_together_by_hints_alone(database: str) -> None:
    async with split(database) as at:
        await settled(database, listeners=4)
        run_id = await start(at["api"].url, agent="golden")
        assert await streamed(at["api"].url, run_id) == list(range(14))
        assert (await ended(at["api"].url, run_id))["state"] == "finished"
        assert await metric(at["publisher"], "runwire_outbox_wakeups_total", by="notify") > 0
        assert await metric(at["publisher"], "runwire_outbox_wakeups_total", by="poll") == 0
        assert await metric(at["publisher"], "runwire_events_published_total") == 13
        assert at["worker"].api_port is None


async def test_processes_on_different_hosts_meet_at_nats_and_outlive_it(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with nats_server() as nats, split(database, bus=nats.url, publish_backoff_max_s=0.2) as at:
        await settled(database, listeners=2)
        run_id = await start(at["api"].url, agent="golden")
        assert await streamed(at["api"].url, run_id) == list(range(14))
        nats.stop()
        run_id = await start(at["api"].url, agent="golden")
        streaming = asyncio.create_task(streamed(at["api"].url, run_id))
        await eventually(lambda: "bus_unavailable" in capsys.readouterr().out, within_s=10)
        await nats.start()
        assert await asyncio.wait_for(streaming, 20) == list(range(14))


async def settled(database: str, *, listeners: int) -> None:
    """Waits until so many connections listen."""
    look = await raw(database)

    async def all_there() -> bool:
        there: int = await look.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name LIKE 'runwire %listener' AND state = 'idle' AND query LIKE 'LISTEN%'"
        )
        return there >= listeners

    try:
        await eventually(all_there)
    finally:
        await look.close()


async def test_what_was_missed_while_nobody_listened_is_looked_for_on_reconnect(database: str) -> None:
    """The listeners' connections die, hints go to nobody, and 60 s polls are far away."""
    async with split(database) as at:
        await settled(database, listeners=4)
        killer = await raw(database)
        # Appended and started behind the hints' back: no NOTIFY ever tells of this run.
        await killer.execute(
            "WITH made AS (INSERT INTO runs (run_id, agent, request_hash, input) VALUES ('silent', 'golden', '', '{}') "
            "RETURNING run_id, run_day) INSERT INTO run_outbox (run_id, run_day) SELECT run_id, run_day FROM made"
        )
        killed = await killer.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'runwire %listener'"
        )
        assert killed == 4
        assert (await ended(at["api"].url, "silent"))["state"] == "finished"
        await killer.close()


async def test_a_cancellation_reaches_the_process_that_walks_the_run(
    database: str, hold: agents_for_assembly.Hold
) -> None:
    async with split(database, lease_s=600.0, lease_heartbeat_s=300.0) as at:
        await settled(database, listeners=4)
        run_id = await start(at["api"].url, agent="held")
        await asyncio.wait_for(hold.entered.wait(), FAST_S)
        async with httpx.AsyncClient(base_url=at["api"].url) as http:
            assert (await http.post(f"{RUNS}/{run_id}/cancel")).status_code == 202
        assert (await ended(at["api"].url, run_id))["state"] == "cancelled"
        assert hold.interrupted == 1


# ------------------------------------------------------------------ ending


async def test_a_process_that_drains_hands_its_run_to_another_which_goes_on_at_once(
    database: str, hold: agents_for_assembly.Hold
) -> None:
    async with split(database, drain_s=0.2) as at:
        await settled(database, listeners=4)
        run_id = await start(at["api"].url, agent="held")
        await asyncio.wait_for(hold.entered.wait(), FAST_S)
        other = Assembly(settings(database, roles=(Role.WORKER,), bus="postgres", worker_id="w2", **HINTS_ONLY))
        async with other:
            await settled(database, listeners=5)
            hold.entered.clear()
            await at["worker"].__aexit__(None, None, None)
            assert hold.interrupted == 1  # it outlasted the drain, so it is started again elsewhere
            await asyncio.wait_for(hold.entered.wait(), FAST_S)
            hold.release.set()
            view = await ended(at["api"].url, run_id)
            assert (view["state"], view["attempt"]) == ("finished", 2)


async def test_a_node_that_ends_in_time_is_not_cut_by_a_drain(database: str, hold: agents_for_assembly.Hold) -> None:
    process = Assembly(settings(database, drain_s=20.0))
    await process.__aenter__()
    run_id = await start(process.url, agent="held")
    await asyncio.wait_for(hold.entered.wait(), FAST_S)
    leaving = asyncio.create_task(process.__aexit__(None, None, None))

    async def not_ready() -> bool:
        async with httpx.AsyncClient(base_url=process.admin_url) as http:
            answer = await http.get("/readyz")
            return answer.status_code == 503 and answer.json()["checks"]["process"] == "draining"

    await eventually(not_ready)
    hold.release.set()
    await leaving
    assert hold.interrupted == 0
    look = await raw(database)
    told = await look.fetch("SELECT type::text, name FROM run_events WHERE run_id = $1 ORDER BY seq", run_id)
    assert tuple(told[-1]) == ("NodeFinished", "Hold")
    left = await look.fetchrow(
        "SELECT r.state::text, r.lease_until < now(), o.next_seq > r.last_seq "
        "FROM runs AS r JOIN run_outbox AS o USING (run_id)"
    )
    assert left is not None
    assert tuple(left) == ("started", True, True)  # claimable at once, and all it has is published
    await look.close()


async def test_an_open_stream_is_ended_resumable_when_its_process_drains(
    database: str, hold: agents_for_assembly.Hold
) -> None:
    process = Assembly(settings(database, drain_s=1.0))
    await process.__aenter__()
    run_id = await start(process.url, agent="held")
    await asyncio.wait_for(hold.entered.wait(), FAST_S)
    async with (
        httpx.AsyncClient(base_url=process.url, timeout=FAST_S) as http,
        http.stream("GET", f"{RUNS}/{run_id}/stream") as response,
    ):
        lines = response.aiter_lines()
        async for line in lines:
            if line == "id: 2":
                break
        leaving = asyncio.create_task(process.__aexit__(None, None, None))
        rest = [line async for line in lines]  # ends cleanly: httpx raises when a body is cut
        await leaving
    assert "event: end" not in rest
    assert any(line.startswith("retry: ") for line in rest)


async def test_a_process_runs_until_it_is_stopped(database: str) -> None:
    async with Assembly(settings(database)) as process:
        process.stop()
        await asyncio.wait_for(process.run_until_stopped(), FAST_S)


async def test_a_process_ends_though_its_database_went_first(database: str, postgres_dsn: str) -> None:
    """Every connection is cut while a run is walked, and no other can be opened."""
    process = Assembly(settings(database, bus="postgres", drain_s=0.5))
    await process.__aenter__()
    run_id = await start(process.url, agent="golden", input={"delay_ms": 200})
    name = urlsplit(database).path.removeprefix("/")
    admin = await raw(postgres_dsn)
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    cut = await admin.fetchval("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1", name)
    assert cut > 0
    await asyncio.wait_for(process.__aexit__(None, None, None), 30)
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await admin.close()
    async with Assembly(settings(database, lease_s=0.5, lease_heartbeat_s=0.1, worker_poll_s=0.1)) as another:
        look = await raw(database)
        await look.execute("UPDATE runs SET lease_until = now()")  # nobody could hand it over
        await look.close()
        assert (await ended(another.url, run_id))["state"] == "finished"


# ------------------------------------------------------------------ starting that fails


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


async def connections_of(database: str) -> int:
    look = await raw(database)
    try:
        found: int = await look.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return found
    finally:
        await look.close()


@pytest.mark.parametrize("which", ["port", "admin_port"])
async def test_a_taken_port_stops_the_start_and_leaves_nothing_open(database: str, taken_port: int, which: str) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(OSError, match=str(taken_port)):
        async with Assembly(settings(database, bus="postgres", **{which: taken_port})):
            pytest.fail("it started")
    assert asyncio.all_tasks() - before == set()

    async def all_closed() -> bool:
        return await connections_of(database) == 0

    await eventually(all_closed)


async def test_a_database_that_cannot_be_reached_is_said_as_such(database: str) -> None:
    for unreachable in (
        "postgresql://nobody@127.0.0.1:1/none",
        database.replace("/test_", "/no_such_"),
    ):
        before = asyncio.all_tasks()
        with pytest.raises(DatabaseUnavailable):
            async with Assembly(settings(unreachable)):
                pytest.fail("it started")
        assert asyncio.all_tasks() - before == set()


async def test_an_agent_that_cannot_be_loaded_stops_the_start_before_anything_is_open(database: str) -> None:
    with pytest.raises(ConfigurationError):
        async with Assembly(settings(database, agents=("no_such_module:x",))):
            pytest.fail("it started")
    assert await connections_of(database) == 0


async def test_a_plan_can_bring_a_bus_of_its_own(database: str) -> None:
    used = RecordingBus()

    async def record(context: Context) -> None:
        context.offer(Bus, Bus(used, MemoryBus()))

    async with Assembly(settings(database), plan=PLAN.replacing("bus", record)) as process:
        run_id = await start(process.url, agent="golden", input={"delay_ms": 0})
        await ended(process.url, run_id)
        assert process.part(Bus).writer is used
        assert used.seqs(run_id) == list(range(1, 14))


async def test_a_plan_knows_its_steps_and_a_process_its_parts(database: str) -> None:
    async def nothing(_context: Context) -> None: ...

    with pytest.raises(KeyError):
        PLAN.replacing("no such step", nothing)
    with pytest.raises(KeyError):
        PLAN.adding(Step("new", nothing), after="no such step")
    process = Assembly(settings(database, roles=(Role.OBSERVER,), bus="postgres"))
    with pytest.raises(LookupError):
        process.part(Bus)
    async with process:
        with pytest.raises(LookupError, match="Streams"):
            process.part(Streams)


async def test_what_fails_to_close_does_not_keep_the_rest_open(database: str) -> None:
    async def fails() -> None:
        raise RuntimeError("cannot be closed")

    async def add_broken_parts(context: Context) -> None:
        context.phases.pipeline.push_async_callback(fails)
        context.phases.front.push_async_callback(fails)

    plan = PLAN.adding(Step("broken parts", add_broken_parts), after="admin")
    process = Assembly(settings(database, bus="postgres"), plan=plan)
    await process.__aenter__()
    before = asyncio.all_tasks()
    with pytest.raises(RuntimeError, match="cannot be closed"):
        await process.__aexit__(None, None, None)
    assert [task.get_name() for task in asyncio.all_tasks() & before if task is not asyncio.current_task()] == []

    async def all_closed() -> bool:
        return await connections_of(database) == 0

    await eventually(all_closed)
    with pytest.raises(httpx.ConnectError):
        await start(process.url)


# ------------------------------------------------------------------ traces


class Collector:
    """An OTLP/HTTP receiver that keeps every span."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip" and body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return web.Response(content_type="application/x-protobuf")

    def named(self, prefix: str) -> list[Span]:
        return [span for span in self.spans if span.name.startswith(prefix)]


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{runner.addresses[0][1]}")
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
    monkeypatch.delenv("OTEL_TRACES_EXPORTER", raising=False)
    yield collector
    await runner.cleanup()


TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


async def test_a_sampled_caller_gets_one_trace_from_its_start_through_every_node(
    database: str, collector: Collector
) -> None:
    async with Assembly(settings(database, trace_sample_ratio=0.0)) as process:
        run_id = await start(process.url, {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"})
        assert await streamed(process.url, run_id) == list(range(14))
        await ended(process.url, run_id)
        await start(process.url)  # not sampled, by the ratio
        await start(process.url, {"traceparent": f"00-{'f' * 32}-b7ad6b7169203331-00"})  # nor by the caller
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE_ID}
    (request,) = collector.named("POST ")
    assert request.parent_span_id.hex() == "b7ad6b7169203331"
    assert request.kind == Span.SPAN_KIND_SERVER
    (workflow,) = collector.named("invoke_agent")
    assert workflow.parent_span_id == request.span_id
    nodes = collector.named("invoke_node")
    assert [node.name.removeprefix("invoke_node ") for node in nodes] == [
        "EnsureDevice",
        "Warmup",
        "OpenApp",
        "Ping",
        "Teardown",
    ]
    assert {node.parent_span_id for node in nodes} == {workflow.span_id}
    assert collector.named("create runwire.events")
    assert all(span.links for span in collector.named("send runwire.events"))
    assert collector.named("send runwire.events")
    assert collector.services == {"runwire"}


async def test_a_trace_goes_on_across_processes(database: str, collector: Collector) -> None:
    async with split(database, trace_sample_ratio=0.0) as at:
        await settled(database, listeners=4)
        run_id = await start(at["api"].url, {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"})
        await ended(at["api"].url, run_id)
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE_ID}
    (request,) = collector.named("POST ")
    (workflow,) = collector.named("invoke_agent")
    assert workflow.parent_span_id == request.span_id
    assert len(collector.named("invoke_node")) == 5


async def test_telemetry_switched_off_exports_nothing(database: str, collector: Collector) -> None:
    async with Assembly(settings(database, telemetry=False, trace_sample_ratio=1.0)) as process:
        run_id = await start(process.url, {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"})
        await ended(process.url, run_id)
    assert collector.spans == []


def test_every_hint_has_a_channel_of_its_own() -> None:
    channels = [notify.RUNS_CLAIMABLE, notify.RUNS_DIRTY, notify.RUN_CANCELLED, notify.EVENTS_PUBLISHED]
    assert len(set(channels)) == 4


async def test_a_healthy_server_says_nothing_of_failures(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where the extra that archives is not installed, which nobody asked for."""
    monkeypatch.setitem(sys.modules, "obstore", None)
    with structlog.testing.capture_logs() as lines:
        async with Assembly(settings(database, agents=(), archive_url=str(tmp_path))):
            pass
    events = [line["event"] for line in lines]
    assert "archive_off" in events
    assert "server_started" in events
    assert not [event for event in events if event.endswith("_failed")]
