"""Pages of events, and what an external orchestrator may append."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from server.calls import RUNS, Api

STARTED = {"type": "RunStarted"}
PING = {"type": "NodeStarted", "name": "Ping"}


async def test_pages_follow_each_other_without_gap_or_repeat(api: Api) -> None:
    run_id = (await api.start())["runId"]
    await api.ended(run_id)
    seqs: list[int] = []
    more = True
    while more:
        params = {"fromSeq": seqs[-1] if seqs else 0, "limit": 5}
        page = (await api.http.get(f"{RUNS}/{run_id}/events", params=params)).json()
        seqs += [event["seq"] for event in page["events"]]
        more = page["hasMore"]
    assert seqs == list(range(1, 14))


async def test_an_event_has_the_fields_of_version_one_and_no_others(api: Api) -> None:
    run_id = (await api.start())["runId"]
    await api.ended(run_id)
    events: list[dict[str, Any]] = (await api.http.get(f"{RUNS}/{run_id}/events")).json()["events"]
    common = {"runId", "seq", "ts", "type", "v", "source"}
    extra = {"NodeStarted": {"name"}, "NodeFinished": {"name"}, "DebugTrace": {"fn"}}
    assert all(set(event) == common | extra.get(event["type"], set()) for event in events)
    assert {(event["v"], event["source"], event["runId"]) for event in events} == {(1, "outbox", run_id)}


async def test_a_closed_run_s_page_is_revalidated_and_an_open_one_s_is_not(api: Api) -> None:
    fence = await api.external("ext")
    open_page = await api.http.get(f"{RUNS}/ext/events")
    assert "ETag" not in open_page.headers
    assert open_page.headers["Cache-Control"] == "no-store"
    await api.finish("ext", fence=fence)
    page = await api.http.get(f"{RUNS}/ext/events")
    etag = page.headers["ETag"]
    assert etag.startswith('"')
    for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        same = await api.http.get(f"{RUNS}/ext/events", headers={"If-None-Match": known})
        assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", etag), known
    other = await api.http.get(f"{RUNS}/ext/events?fromSeq=1", headers={"If-None-Match": etag})
    assert other.status_code == 200
    assert other.headers["ETag"] != etag


async def test_an_external_run_goes_from_start_to_outcome(api: Api) -> None:
    fence = await api.external("ext", begun=False)
    begun = await api.append("ext", [STARTED, PING], fence=fence, ifSeq=0)
    assert (begun.status_code, begun.json()) == (200, {"seqs": [1, 2], "lastSeq": 2, "cancelRequested": False})
    await api.append("ext", [{"type": "DebugTrace", "fn": "ping.sent"}], fence=fence, ifSeq=2)
    closing = [{"type": "NodeFinished", "name": "Ping"}, {"type": "RunFinished"}]
    ended = await api.append("ext", closing, fence=fence, ifSeq=3, outcome="finished")
    assert ended.json()["seqs"] == [4, 5]
    view = await api.ended("ext")
    assert (view["outcome"], view["lastSeq"], view["external"]) == ("finished", 5, True)


@pytest.mark.parametrize("outcome", ["finished", "failed", "cancelled"])
async def test_the_orchestrator_says_how_its_run_ended(api: Api, outcome: str) -> None:
    fence = await api.external("ext")
    await api.finish("ext", fence=fence, outcome=outcome)
    assert (await api.run("ext"))["outcome"] == outcome


async def test_if_seq_lets_a_repeated_batch_be_found_out(api: Api) -> None:
    fence = await api.external("ext")
    first = await api.append("ext", [PING], fence=fence, ifSeq=1)
    repeated = await api.append("ext", [PING], fence=fence, ifSeq=1)
    problem = repeated.json()
    assert (first.status_code, repeated.status_code) == (200, 409)
    assert (problem["code"], problem["ifSeq"], problem["lastSeq"]) == ("seq_conflict", 1, 2)
    assert (await api.run("ext"))["lastSeq"] == 2


async def test_an_empty_batch_is_a_heartbeat_and_tells_of_a_cancellation(api: Api, database: str) -> None:
    fence = await api.external("ext", leaseSeconds=60)
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("UPDATE runs SET lease_until = now() + interval '5 seconds'")
        beat = await api.append("ext", [], fence=fence)
        left = await connection.fetchval("SELECT extract(epoch FROM lease_until - now()) FROM runs")
    finally:
        await connection.close()
    assert beat.json() == {"seqs": [], "lastSeq": 1, "cancelRequested": False}
    assert left > 50
    await api.http.post(f"{RUNS}/ext/cancel")
    assert (await api.append("ext", [], fence=fence)).json()["cancelRequested"] is True


async def test_a_lost_lease_fails_the_run_and_fences_its_orchestrator_out(api: Api, database: str) -> None:
    fence = await api.external("ext")
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("UPDATE runs SET lease_until = now() - interval '1 second'")
    finally:
        await connection.close()
    view = await api.ended("ext")
    events = (await api.http.get(f"{RUNS}/ext/events")).json()["events"]
    assert (view["outcome"], view["errorCode"]) == ("failed", "lease_lost")
    assert [event.get("fn", event["type"]) for event in events] == ["RunStarted", "error:lease_lost", "RunFinished"]
    late = await api.append("ext", [PING], fence=fence)
    assert (late.status_code, late.json()["code"], late.json()["lastSeq"]) == (409, "run_closed", 3)


async def test_a_stale_fence_is_refused_and_never_told_the_current_one(api: Api, database: str) -> None:
    fence = await api.external("ext")
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("UPDATE runs SET fence = 4711")
    finally:
        await connection.close()
    stale = await api.append("ext", [PING], fence=fence)
    assert (stale.status_code, stale.json()["code"], stale.json()["lastSeq"]) == (409, "fence_stale", 1)
    assert "4711" not in stale.text


async def test_nobody_outside_appends_to_a_run_a_worker_walks(api: Api) -> None:
    run_id = (await api.start(agent="approval"))["runId"]
    before = await api.run(run_id)
    for fence in range(4):
        refused = await api.append(run_id, [PING], fence=fence)
        assert (refused.status_code, refused.json()["code"]) == (409, "not_external")
    assert (await api.run(run_id))["lastSeq"] >= before["lastSeq"]
    events = (await api.http.get(f"{RUNS}/{run_id}/events")).json()["events"]
    assert all(event.get("name") != "Ping" for event in events)


@pytest.mark.parametrize(
    ("events", "body", "status", "code"),
    [
        ([{"type": "RunFinished"}], {}, 422, "illegal_batch"),
        ([PING], {"outcome": "finished"}, 422, "illegal_batch"),
        ([{"type": "RunFinished"}, PING], {"outcome": "finished"}, 422, "illegal_batch"),
        ([PING, STARTED], {}, 422, "illegal_batch"),
        ([STARTED], {}, 409, "illegal_append"),
        ([{"type": "NodeStarted"}], {}, 422, "invalid_request"),
        ([{"type": "NodeStarted", "name": "two words"}], {}, 422, "invalid_request"),
        ([{"type": "NodeStarted", "name": "Ping\n"}], {}, 422, "invalid_request"),
        ([{"type": "DebugTrace", "fn": "a\nid: 9"}], {}, 422, "invalid_request"),
        ([{"type": "DebugTrace", "fn": "ok", "payload": "secret"}], {}, 422, "invalid_request"),
        ([{"type": "DebugTrace", "fn": "x.y", "name": "Ping"}], {}, 422, "invalid_request"),
        ([{"type": "Sabotage"}], {}, 422, "invalid_request"),
        ([PING], {"outcome": "pending"}, 422, "invalid_request"),
        ([PING], {"ifSeq": -1}, 422, "invalid_request"),
        ([PING], {"ifSeq": 2**53}, 422, "invalid_request"),
        ([PING] * 1001, {}, 422, "batch_too_large"),
    ],
)
async def test_a_batch_that_does_not_fit_is_refused_as_a_whole(
    api: Api, events: list[dict[str, Any]], body: dict[str, Any], status: int, code: str
) -> None:
    fence = await api.external("ext")
    refused = await api.append("ext", [PING, *events] if code == "invalid_request" else events, fence=fence, **body)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert (await api.run("ext"))["lastSeq"] == 1


async def test_the_first_event_of_a_run_is_run_started(api: Api) -> None:
    fence = await api.external("ext", begun=False)
    refused = await api.append("ext", [PING], fence=fence)
    assert (refused.status_code, refused.json()["code"]) == (409, "illegal_append")
    assert (await api.run("ext"))["state"] == "pending"
