"""Starting, looking at, listing, cancelling and signalling runs over HTTP."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import asyncpg

from server.calls import RUNS, Api
from waiting import eventually


async def test_a_start_that_names_nothing_walks_golden_to_its_end(api: Api) -> None:
    response = await api.http.post(RUNS)
    run_id = response.json()["runId"]
    assert response.status_code == 202
    assert response.json() == {"accepted": True, "status": "accepted", "runId": run_id}
    assert response.headers["Location"] == f"{RUNS}/{run_id}"
    assert uuid.UUID(run_id).version == 7
    view = await api.ended(run_id)
    assert (view["agent"], view["state"], view["outcome"], view["lastSeq"]) == ("golden", "finished", "finished", 13)
    assert view["createdAt"] <= view["startedAt"] <= view["finishedAt"]
    assert view["attempt"] == 1


async def test_the_same_start_sent_again_starts_nothing_and_is_answered_alike(api: Api) -> None:
    body = {"runId": "twice", "input": {"delay_ms": 0}}
    first = await api.http.post(RUNS, json=body)
    again = await api.http.post(RUNS, json=body)
    assert (again.status_code, again.content) == (first.status_code, first.content) == (202, first.content)
    other = await api.http.post(RUNS, json=body | {"input": {"delay_ms": 1}})
    assert (other.status_code, other.json()["code"], other.json()["runId"]) == (409, "start_conflict", "twice")
    assert len((await api.http.get(RUNS)).json()["runs"]) == 1


async def test_an_idempotency_key_starts_one_run_however_many_ask_at_once(api: Api) -> None:
    key = {"Idempotency-Key": "order-7"}
    answers = await asyncio.gather(*(api.http.post(RUNS, json={}, headers=key) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["runId"] for answer in answers}) == 1
    other = await api.http.post(RUNS, json={"input": {"delay_ms": 1}}, headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "start_conflict")
    assert len((await api.http.get(RUNS)).json()["runs"]) == 1


async def test_a_repeated_external_start_gives_the_fence_again(api: Api) -> None:
    fences = [(await api.start(runId="ext", external=True, leaseSeconds=60))["fence"] for _ in range(2)]
    assert fences[0] == fences[1] > 0


async def test_pages_of_runs_do_not_shift_while_runs_are_started(api: Api) -> None:
    for n in range(5):
        await api.external(f"r{n}", begun=False)
    seen: list[str] = []
    page: dict[str, Any] = {"nextCursor": None}
    for turn in range(4):
        cursor = page["nextCursor"]
        params: dict[str, str | int] = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await api.http.get(RUNS, params=params)).json()
        seen += [run["runId"] for run in page["runs"]]
        await api.external(f"late{turn}", begun=False)
        if page["nextCursor"] is None:
            break
    assert seen == ["r4", "r3", "r2", "r1", "r0"]


async def test_runs_are_listed_by_state_and_by_agent(api: Api) -> None:
    await api.external("open", agent="mine")
    done = await api.start()
    await api.ended(done["runId"])
    started = (await api.http.get(RUNS, params={"state": "started"})).json()
    golden = (await api.http.get(RUNS, params={"agent": "golden"})).json()
    assert [run["runId"] for run in started["runs"]] == ["open"]
    assert [run["runId"] for run in golden["runs"]] == [done["runId"]]
    assert golden["nextCursor"] is None


async def test_runs_are_found_by_session_labels_error_and_time(api: Api) -> None:
    await api.external("chat-1", agent="x", session="chat", labels={"env": "prod", "team": "a:b"})
    await api.external("chat-2", agent="x", session="chat", labels={"env": "prod"})
    fence = await api.external("other", agent="x", labels={"env": "dev"})
    view = await api.run("chat-1")
    assert (view["session"], view["labels"]) == ("chat", {"env": "prod", "team": "a:b"})
    assert (await api.run("other"))["session"] is None
    await api.append("other", [{"type": "RunFinished"}], fence=fence, outcome="failed")

    async def listed(*params: tuple[str, str]) -> list[str]:
        answer = await api.http.get(RUNS, params=list(params))
        assert answer.status_code == 200, answer.text
        return [run["runId"] for run in answer.json()["runs"]]

    assert await listed(("session", "chat")) == ["chat-2", "chat-1"]
    assert await listed(("label", "env:prod"), ("label", "team:a:b")) == ["chat-1"]
    assert await listed(("session", "chat"), ("label", "env:dev")) == []
    assert await listed(("sort", "ended")) == ["other"]
    assert await listed(("errorCode", "boom")) == []
    created = view["createdAt"]
    assert await listed(("from", str(created + 1)), ("label", "env:prod")) == ["chat-2"]
    assert await listed(("until", str(created))) == []


async def test_a_filter_or_a_start_that_does_not_fit_has_a_code_that_names_it(api: Api) -> None:
    for params, code in (
        ({"session": "a b"}, "invalid_session"),
        ({"label": "nothing"}, "invalid_labels"),
        ({"label": ["a:1", "a:2"]}, "invalid_labels"),
        ({"label": [f"k{n}:v" for n in range(17)]}, "invalid_labels"),
        ({"errorCode": "No Code"}, "invalid_filter"),
        ({"from": "yesterday"}, "invalid_filter"),
        ({"until": "9" * 15}, "invalid_filter"),
        ({"sort": "up"}, "invalid_filter"),
    ):
        answer = await api.http.get(RUNS, params=params)
        assert (answer.status_code, answer.json()["code"]) == (400, code), params
    for body, code in (({"session": ""}, "invalid_session"), ({"labels": {"a:b": "secret-value"}}, "invalid_labels")):
        answer = await api.http.post(RUNS, json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, code)
        assert "secret-value" not in answer.text
    assert (await api.http.post(RUNS, json={"labels": {"a": 1}})).status_code == 422
    assert (await api.http.get(RUNS)).json()["runs"] == []


async def test_cancelling_is_durable_idempotent_and_ends_in_the_terminal_event(api: Api) -> None:
    run_id = (await api.start(input={"delay_ms": 60_000}))["runId"]
    await api.published(run_id, 2)
    first = await api.http.post(f"{RUNS}/{run_id}/cancel")
    again = await api.http.delete(f"{RUNS}/{run_id}")
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["cancelRequested"] is True
    view = await api.ended(run_id)
    events = (await api.http.get(f"{RUNS}/{run_id}/events")).json()["events"]
    assert view["outcome"] == "cancelled"
    assert [event.get("fn") for event in events].count("cancelRequested") == 1
    assert events[-1]["type"] == "RunFinished"
    after = await api.http.delete(f"{RUNS}/{run_id}")
    assert (after.status_code, after.json()) == (202, view)


async def test_a_cancelled_finished_run_stays_as_it_is(api: Api) -> None:
    run_id = (await api.start())["runId"]
    view = await api.ended(run_id)
    assert (await api.http.post(f"{RUNS}/{run_id}/cancel")).json() == view


async def test_a_signal_lets_a_waiting_run_go_on(api: Api) -> None:
    run_id = (await api.start(agent="approval"))["runId"]

    async def waits() -> bool:
        return bool((await api.run(run_id))["waitingFor"] == "approved")

    await eventually(waits)
    signalled = await api.http.post(f"{RUNS}/{run_id}/signal", json={"name": "approved"})
    assert signalled.status_code == 202
    assert (await api.ended(run_id))["outcome"] == "finished"
    state = (await api.http.get(f"{RUNS}/{run_id}/state")).json()
    assert (state["runId"], state["state"]) == (run_id, {"approved": True})
    late = await api.http.post(f"{RUNS}/{run_id}/signal", json={"name": "approved"})
    assert (late.status_code, late.json()["code"], late.json()["state"]) == (409, "run_closed", "finished")


async def test_one_signal_more_than_a_run_may_have_is_refused(api: Api) -> None:
    run_id = "ext"
    await api.external(run_id, begun=False)
    for n in range(100):
        assert (await api.http.post(f"{RUNS}/{run_id}/signal", json={"name": f"s{n}"})).status_code == 202
    refused = await api.http.post(f"{RUNS}/{run_id}/signal", json={"name": "approved"})
    assert (refused.status_code, refused.json()["code"], refused.json()["runId"]) == (409, "too_many_signals", run_id)
    ended = (await api.http.post(f"{RUNS}/{run_id}/cancel")).json()
    assert (ended["state"], ended["outcome"]) == ("cancelled", "cancelled")


async def _waits(api: Api, run_id: str) -> bool:
    return bool((await api.run(run_id))["state"] == "waiting")


async def test_a_run_without_checkpoint_has_the_state_that_it_begins_with(api: Api, database: str) -> None:
    run_id = (await api.start(agent="review", input={"heard": ["before"]}))["runId"]
    await eventually(lambda: _waits(api, run_id), within_s=20)
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("DELETE FROM run_checkpoints WHERE run_id = $1", run_id)
    finally:
        await connection.close()
    state = (await api.http.get(f"{RUNS}/{run_id}/state")).json()
    assert state == {"runId": run_id, "seq": 0, "state": {"heard": ["before"]}}
    await api.external("ext", input={"not": "a state"})
    assert (await api.http.get(f"{RUNS}/ext/state")).json() == {"runId": "ext", "seq": 0, "state": None}


async def test_the_caller_s_trace_goes_on_in_the_run(api: Api, database: str) -> None:
    caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await api.http.post(RUNS, json={"runId": "theirs", "external": True}, headers={"traceparent": caller})
    await api.http.post(RUNS, json={"runId": "ours", "external": True}, headers={"traceparent": "nonsense"})
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch(
            "SELECT run_id, r.traceparent, o.traceparent AS sampled FROM runs AS r JOIN run_outbox AS o USING (run_id)"
        )
    finally:
        await connection.close()
    stored = {row["run_id"]: (row["traceparent"], row["sampled"]) for row in rows}
    assert stored["theirs"] == (caller, caller)
    assert len(stored["ours"][0]) == len(caller)
    assert stored["ours"][1] is None


async def test_head_answers_like_get_without_the_body(api: Api) -> None:
    await api.external("ext")
    for path in (RUNS, f"{RUNS}/ext", f"{RUNS}/ext/state", f"{RUNS}/ext/events", "/openapi.json", "/", "/docs/"):
        got, asked = await api.http.get(path), await api.http.head(path)
        assert (asked.status_code, asked.content) == (200, b""), path
        assert asked.headers["Content-Length"] == str(len(got.content)), path
        assert asked.headers["Content-Type"] == got.headers["Content-Type"], path


async def test_the_diagnosis_of_a_finished_run_points_to_the_client(api: Api) -> None:
    run_id = (await api.start())["runId"]
    await api.ended(run_id)

    async def published() -> bool:
        return bool((await api.http.get(f"{RUNS}/{run_id}")).json()["publishedSeq"] == 13)

    await eventually(published)
    found = (await api.http.get(f"{RUNS}/{run_id}/diagnosis")).json()
    assert (found["runId"], found["stage"], found["healthy"]) == (run_id, "client_side", True)
    assert found["evidence"]["lastSeq"] == found["evidence"]["publishedSeq"] == 13
    assert found["nextStep"]["command"] == f"runwire run tail {run_id}"
    missing = await api.http.get(f"{RUNS}/nowhere/diagnosis")
    assert (missing.status_code, missing.json()["code"]) == (404, "run_not_found")
