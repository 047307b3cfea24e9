"""Calls are repeated where that is safe, done once where it matters, and fail by type."""

from __future__ import annotations

import datetime as dt
import email.utils
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from client.crooked import Answer, Crooked, crooked_server, hangs_up, plain, problem
from runwire.client import Client, RunView, ServerProblem, ServerUnreachable, StartedRun, UnexpectedAnswer
from runwire.client.calls import retry_after_s
from runwire.errors import (
    DatabaseUnavailable,
    FenceStale,
    IllegalAppend,
    IllegalBatch,
    InvalidRequest,
    NotExternal,
    NotPermitted,
    RunClosed,
    RunNotFound,
    RunwireError,
    SeqConflict,
    StartConflict,
    StorageUnavailable,
    Unauthenticated,
    UnknownAgent,
)
from runwire.model.event import RUN_FINISHED, RUN_STARTED, node_started
from runwire.model.run import RunState
from runwire.orchestrate import RunView as ServedRunView

RUNS = "/api/agents/runs"
EVENTS = f"{RUNS}/r1/events"
STARTED = plain(202, b'{"accepted":true,"status":"accepted","runId":"r1"}')
VIEW = plain(200, b'{"runId":"r1","agent":"golden","state":"started","lastSeq":3,"publishedSeq":3}')
RUN = StartedRun("r1", fence=4)


@pytest.fixture
async def server() -> AsyncIterator[Crooked]:
    async with crooked_server() as server:
        yield server


@pytest.fixture
async def client(server: Crooked) -> AsyncIterator[Client]:
    async with Client(server.url, token="secret", retry_s=5) as client:  # noqa: S106  # not one
        yield client


def bodies(server: Crooked) -> list[Any]:
    return [json.loads(body) for _, _, _, body in server.seen]


async def test_a_start_whose_answer_is_lost_is_sent_again_with_the_same_key(server: Crooked, client: Client) -> None:
    server.will(RUNS, hangs_up(), problem(503, "database_unavailable", headers={"Retry-After": "0"}), STARTED)
    assert await client.start("triage", input={"a": 1}) == StartedRun("r1")
    keys = {headers["Idempotency-Key"] for _, _, headers, _ in server.seen}
    assert (len(server.seen), len(keys)) == (3, 1)
    assert bodies(server) == [{"agent": "triage", "input": {"a": 1}}] * 3


async def test_two_starts_are_two_runs_unless_the_caller_names_the_key(server: Crooked, client: Client) -> None:
    server.will(RUNS, STARTED, STARTED, STARTED, STARTED)
    await client.start()
    await client.start()
    await client.start(idempotency_key="order-7")
    await client.start(idempotency_key="order-7", external=True, lease_seconds=5, run_id="r1", traceparent="00-a-b-01")
    keys = [headers["Idempotency-Key"] for _, _, headers, _ in server.seen]
    assert len(set(keys[:2])) == 2
    assert keys[2:] == ["order-7", "order-7"]
    assert bodies(server)[3] == {"agent": "golden", "runId": "r1", "external": True, "leaseSeconds": 5}
    assert server.seen[3][2]["traceparent"] == "00-a-b-01"


async def test_the_token_goes_with_every_call(server: Crooked, client: Client) -> None:
    server.will(f"{RUNS}/r1", VIEW)
    await client.run("r1")
    assert server.seen[0][2]["Authorization"] == "Bearer secret"


async def test_an_append_without_if_seq_is_not_repeated_when_its_answer_is_lost(
    server: Crooked, client: Client
) -> None:
    server.will(EVENTS, hangs_up())
    with pytest.raises(ServerUnreachable):
        await client.append(RUN, [node_started("A")])
    assert len(server.seen) == 1


async def test_an_append_with_if_seq_is_repeated_until_it_is_known_to_be_stored(
    server: Crooked, client: Client
) -> None:
    server.will(EVENTS, hangs_up(), problem(409, "seq_conflict", runId="r1", ifSeq=1, lastSeq=3))
    appended = await client.append(RUN, [node_started("A"), node_started("B")], if_seq=1)
    assert (appended.seqs, appended.last_seq) == ((2, 3), 3)
    assert server.seen[1][2]["Runwire-Fence"] == "4"


async def test_an_append_that_conflicts_at_once_is_a_conflict(server: Crooked, client: Client) -> None:
    server.will(EVENTS, problem(409, "seq_conflict", runId="r1", ifSeq=1, lastSeq=3))
    with pytest.raises(SeqConflict) as caught:
        await client.append(RUN, [node_started("A"), node_started("B")], if_seq=1)
    assert (caught.value.expected, caught.value.actual) == (1, 3)


async def test_an_append_that_conflicts_elsewhere_after_a_lost_answer_is_a_conflict(
    server: Crooked, client: Client
) -> None:
    server.will(EVENTS, hangs_up(), problem(409, "seq_conflict", runId="r1", ifSeq=1, lastSeq=7))
    with pytest.raises(SeqConflict):
        await client.append(RUN, [node_started("A")], if_seq=1)


async def test_a_last_append_whose_answer_is_lost_is_known_by_the_closed_run(server: Crooked, client: Client) -> None:
    server.will(EVENTS, hangs_up(), problem(409, "run_closed", runId="r1", state="finished", lastSeq=9))
    appended = await client.append(RUN, [RUN_FINISHED], if_seq=8, outcome=RunState.FINISHED)
    assert appended.seqs == (9,)
    assert bodies(server)[0] == {"events": [{"type": "RunFinished"}], "ifSeq": 8, "outcome": "finished"}


async def test_a_run_that_ended_otherwise_after_a_lost_answer_is_closed(server: Crooked, client: Client) -> None:
    server.will(EVENTS, hangs_up(), problem(409, "run_closed", runId="r1", state="failed", lastSeq=9))
    with pytest.raises(RunClosed):
        await client.append(RUN, [RUN_FINISHED], if_seq=8, outcome=RunState.FINISHED)


async def test_a_heartbeat_is_an_empty_append_and_tells_of_cancellation(server: Crooked, client: Client) -> None:
    server.will(EVENTS, hangs_up(), plain(200, b'{"seqs":[],"lastSeq":3,"cancelRequested":true}'))
    assert (await client.append("r1", [], fence=4)).cancel_requested


async def test_an_append_needs_a_fence(client: Client) -> None:
    with pytest.raises(InvalidRequest):
        await client.append("r1", [RUN_STARTED])


async def test_a_signal_with_an_id_is_repeated_until_its_answer_arrives(server: Crooked, client: Client) -> None:
    server.will(f"{RUNS}/r1/signal", hangs_up(), VIEW)
    assert (await client.signal("r1", "approved", data={"by": "Ann"}, signal_id="one")).run_id == "r1"


async def test_a_signal_is_not_repeated_when_its_answer_is_lost(server: Crooked, client: Client) -> None:
    server.will(f"{RUNS}/r1/signal", hangs_up(), VIEW)
    with pytest.raises(ServerUnreachable):
        await client.signal("r1", "approved")
    assert (await client.signal("r1", "approved")).run_id == "r1"
    assert bodies(server) == [{"name": "approved"}] * 2


async def test_runs_are_read_page_by_page(server: Crooked, client: Client) -> None:
    view = '{"runId":"%s","agent":"golden","state":"started","lastSeq":3,"publishedSeq":3}'
    server.will(
        RUNS,
        plain(200, f'{{"runs":[{view % "a"},{view % "b"}],"nextCursor":"xyz"}}'.encode()),
        plain(200, f'{{"runs":[{view % "c"}],"nextCursor":null}}'.encode()),
    )
    found = client.runs(state=RunState.STARTED, agent="golden", page_size=2)
    assert [run.run_id async for run in found] == ["a", "b", "c"]


async def test_a_page_of_events_and_a_state_are_decoded(server: Crooked, client: Client) -> None:
    server.will(
        EVENTS,
        plain(
            200,
            b'{"events":[{"runId":"r1","seq":1,"ts":5,"type":"RunStarted","v":1,"source":"outbox"}],"hasMore":true}',
        ),
    )
    server.will(f"{RUNS}/r1/state", plain(200, b'{"runId":"r1","seq":3,"state":{"pages":2}}'))
    server.will(f"{RUNS}/r1/cancel", VIEW)
    page = await client.events("r1", limit=1)
    assert ([event.seq for event in page.events], page.has_more) == ([1], True)
    assert (await client.state("r1")).state == {"pages": 2}
    assert (await client.cancel("r1")).state is RunState.STARTED


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (problem(404, "run_not_found", runId="r1"), RunNotFound),
        (problem(422, "unknown_agent", agent="x", known=["golden"]), UnknownAgent),
        (problem(409, "start_conflict", runId="r1"), StartConflict),
        (problem(409, "run_closed", runId="r1", state="failed", lastSeq=1), RunClosed),
        (problem(409, "fence_stale", runId="r1", lastSeq=1), FenceStale),
        (problem(409, "illegal_append", runId="r1"), IllegalAppend),
        (problem(422, "illegal_batch"), IllegalBatch),
        (problem(422, "batch_too_large"), InvalidRequest),
        (problem(422, "invalid_of_tomorrow"), InvalidRequest),
        (problem(409, "not_external"), NotExternal),
        (problem(401, "unauthorized"), Unauthenticated),
        (problem(409, "seq_conflict"), ServerProblem),
        (problem(500, "internal"), ServerProblem),
        (plain(403, b"<html>", content_type="text/html"), ServerProblem),
        (plain(200, b"<html>", content_type="text/html"), UnexpectedAnswer),
        (plain(200, b'{"runs": 3}'), UnexpectedAnswer),
    ],
)
async def test_refusals_come_back_as_the_errors_they_were(
    server: Crooked, client: Client, answer: Answer, error: type[RunwireError]
) -> None:
    server.will(f"{RUNS}/r1", answer)
    with pytest.raises(error) as caught:
        await client.run("r1")
    assert type(caught.value) is error
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("code", "error"), [("database_unavailable", DatabaseUnavailable), ("storage_unavailable", StorageUnavailable)]
)
async def test_a_service_that_stays_busy_is_reported_as_it_says(
    server: Crooked, code: str, error: type[Exception]
) -> None:
    server.will(f"{RUNS}/r1", *[problem(503, code, runId="r1", headers={"Retry-After": "0"})] * 10_000)
    async with Client(server.url, retry_s=0.2) as client:
        with pytest.raises(error):
            await client.run("r1")


async def test_a_service_that_is_not_there_is_unreachable_and_said_so_in_a_sentence() -> None:
    async with Client("http://127.0.0.1:1", retry_s=0.1) as client:
        with pytest.raises(ServerUnreachable, match=r"cannot reach http://127\.0\.0\.1:1: connect"):
            await client.run("r1")


async def test_an_answer_that_never_comes_is_a_timeout(server: Crooked) -> None:
    server.will(f"{RUNS}/r1", hangs_up(after_s=30), hangs_up(after_s=30))
    async with Client(server.url, timeout_s=0.2, retry_s=0.1) as client:
        with pytest.raises(ServerUnreachable, match="no answer in time"):
            await client.run("r1")


async def test_wrong_arguments_are_refused_before_anything_is_sent(server: Crooked, client: Client) -> None:
    with pytest.raises(InvalidRequest):
        await client.run("a/../b")
    with pytest.raises(InvalidRequest):
        await client.start(run_id="")
    with pytest.raises(InvalidRequest):
        Client("localhost:8080")
    assert server.seen == []


async def test_a_client_must_be_entered() -> None:
    with pytest.raises(RuntimeError):
        await Client("http://127.0.0.1:1").run("r1")


def test_the_clients_view_of_a_run_has_every_field_the_service_sends() -> None:
    assert set(RunView.__struct_fields__) == set(ServedRunView.__struct_fields__)


def test_retry_after_is_seconds_or_a_date_and_bounded() -> None:
    soon = email.utils.format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=30))
    assert retry_after_s(None) is None
    assert retry_after_s("2") == 2
    assert retry_after_s("99999") == 300
    assert 25 < (retry_after_s(soon) or 0) <= 30
    assert retry_after_s("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    assert retry_after_s("later") is None


async def test_a_token_may_come_from_somewhere_that_renews_it(server: Crooked) -> None:
    tokens = iter(["first", "second"])
    server.will(f"{RUNS}/r1", VIEW, VIEW)
    async with Client(server.url, token=lambda: next(tokens)) as client:
        await client.run("r1")
        await client.run("r1")
    assert [headers["Authorization"] for _, _, headers, _ in server.seen] == ["Bearer first", "Bearer second"]


async def test_refusals_tell_who_one_is_not_from_what_one_may_not(server: Crooked, client: Client) -> None:
    server.will(f"{RUNS}/r1", problem(401, "credentials_expired"), problem(403, "scope_missing", scope="runs:read"))
    with pytest.raises(Unauthenticated) as unknown:
        await client.run("r1")
    assert unknown.value.code == "credentials_expired"
    with pytest.raises(NotPermitted) as lacking:
        await client.run("r1")
    assert (lacking.value.code, lacking.value.scope) == ("scope_missing", "runs:read")
    assert "secret" not in f"{unknown.value!r} {lacking.value!r} {client!r} {vars(client)!r}"
