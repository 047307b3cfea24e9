"""Signals with data over HTTP: what is refused, and what an external orchestrator hears."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from server.calls import RUNS, Api
from waiting import eventually

ANN = {"by": "Ann", "comment": "Go ahead."}


async def waiting_review(api: Api) -> str:
    run_id: str = (await api.start(agent="review"))["runId"]

    async def waits() -> bool:
        return bool((await api.run(run_id))["state"] == "waiting")

    await eventually(waits)
    return run_id


async def test_data_reaches_the_node_that_goes_on_and_a_repeat_is_answered_as_before(api: Api) -> None:
    run_id = await waiting_review(api)
    view = await api.run(run_id)
    assert view["waitingFor"] == "approved rejected"
    assert view["waitingUntil"] - view["waitingSince"] == pytest.approx(3_600_000, abs=100)
    body = {"name": "rejected", "data": ANN, "id": "ann-1"}
    signalled = await api.http.post(f"{RUNS}/{run_id}/signal", json=body)
    assert signalled.status_code == 202, signalled.text
    await api.ended(run_id)
    state = (await api.http.get(f"{RUNS}/{run_id}/state")).json()["state"]
    assert state == {"heard": ["rejected", "Ann", "Go ahead."]}
    assert (await api.http.post(f"{RUNS}/{run_id}/signal", json=body)).status_code == 202
    other = await api.http.post(f"{RUNS}/{run_id}/signal", json={**body, "data": {"by": "Bob"}})
    assert (other.status_code, other.json()["code"], other.json()["runId"]) == (409, "signal_conflict", run_id)


@pytest.mark.parametrize(
    ("body", "status", "code", "where"),
    [
        ({"name": "approved", "data": {"by": 7, "comment": "canary"}}, 422, "invalid_signal", "`$.by`"),
        ({"name": "approved"}, 422, "invalid_signal", "Expected `object`"),
        ({"name": "approved", "data": {"by": "Ann", "canary": 1}}, 422, "invalid_signal", "unknown field - at `$`"),
        ({"name": "postponed", "data": "canary"}, 409, "signal_not_awaited", ""),
        ({"name": "approved", "data": "canary" * 11_000}, 413, "signal_too_large", "65536"),
    ],
)
async def test_a_signal_that_does_not_fit_is_refused_at_once_and_not_quoted(
    api: Api, body: dict[str, Any], status: int, code: str, where: str
) -> None:
    run_id = await waiting_review(api)
    refused = await api.http.post(f"{RUNS}/{run_id}/signal", json=body)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert where in refused.json()["detail"]
    assert "canary" not in refused.text


async def test_an_external_orchestrator_hears_of_signals_until_it_acknowledges_them(api: Api) -> None:
    fence = await api.external("ext")
    assert "signals" not in (await api.append("ext", [], fence=fence)).json()
    for body in ({"name": "go", "data": ANN, "id": "one"}, {"name": "stop"}, {"name": "null", "data": None}):
        assert (await api.http.post(f"{RUNS}/ext/signal", json=body)).status_code == 202
    sent = [
        {"n": 1, "name": "go", "data": ANN, "id": "one"},
        {"n": 2, "name": "stop"},
        {"n": 3, "name": "null", "data": None},
    ]
    trace = {"type": "DebugTrace", "fn": "go.on"}
    assert (await api.append("ext", [], fence=fence)).json()["signals"] == sent
    assert (await api.append("ext", [trace], fence=fence, signalsTaken=2)).json()["signals"] == sent[2:]
    assert (await api.append("ext", [], fence=fence)).json()["signals"] == sent[2:]
    assert (await api.append("ext", [trace], fence=fence, signalsTaken=3)).json()["signals"] == []
    assert "signals" not in (await api.append("ext", [], fence=fence)).json()
    await api.finish("ext", fence=fence)


async def signals_of(api: Api, run_id: str) -> dict[str, Any]:
    answer = await api.http.get(f"{RUNS}/{run_id}/signals")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_the_signals_of_a_run_are_those_it_waits_for_accepts_and_has_not_taken(api: Api) -> None:
    run_id = await waiting_review(api)
    found = await signals_of(api, run_id)
    assert (found["runId"], found["waitingFor"], found["notTaken"]) == (run_id, ["approved", "rejected"], [])
    assert found["waitingUntil"] == (await api.run(run_id))["waitingUntil"]
    assert found["acceptsOthers"] is False
    assert [one["name"] for one in found["accepts"]] == ["approved", "rejected"]
    assert all(one["schema"]["$defs"]["Verdict"]["required"] == ["by"] for one in found["accepts"])
    assert (await api.http.post(f"{RUNS}/{run_id}/signal", json={"name": "approved", "data": ANN})).status_code == 202
    await api.ended(run_id)
    over = await signals_of(api, run_id)
    assert (over["waitingFor"], over["accepts"], over["acceptsOthers"], over["notTaken"]) == ([], [], False, [])


async def test_signals_that_nobody_took_are_shown_with_their_data_within_a_bound(api: Api) -> None:
    fence = await api.external("ext")
    large = "x" * 60_000
    for n in range(6):
        body = {"name": f"s{n}", "data": large, "id": f"id-{n}"}
        assert (await api.http.post(f"{RUNS}/ext/signal", json=body)).status_code == 202
    assert (await api.http.post(f"{RUNS}/ext/signal", json={"name": "plain"})).status_code == 202
    found = await signals_of(api, "ext")
    assert (found["accepts"], found["acceptsOthers"]) == ([], True)
    told = found["notTaken"]
    assert [(one["n"], one["name"], one.get("id")) for one in told] == [
        *((n + 1, f"s{n}", f"id-{n}") for n in range(6)),
        (7, "plain", None),
    ]
    assert [one.get("data") for one in told] == [large] * 4 + [None] * 3
    assert [one.get("withheld") for one in told] == [None] * 4 + [True] * 2 + [None]
    await api.append("ext", [], fence=fence, signalsTaken=6)
    assert [one["name"] for one in (await signals_of(api, "ext"))["notTaken"]] == ["plain"]


async def test_a_signal_without_a_schema_is_accepted_with_any_data(api: Api) -> None:
    run_id = (await api.start(agent="approval"))["runId"]

    async def waits() -> bool:
        return bool((await signals_of(api, run_id))["waitingFor"] == ["approved"])

    await eventually(waits, within_s=20)
    found = await signals_of(api, run_id)
    assert found["accepts"] == [{"name": "approved"}]


class TestWithoutTheSignals:
    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {"db_timeout_s": 0.3}

    async def test_an_append_that_is_stored_is_answered_so_and_the_next_answer_has_the_signals(
        self, api: Api, database: str
    ) -> None:
        fence = await api.external("ext", leaseSeconds=600)
        await api.http.post(f"{RUNS}/ext/signal", json={"name": "go"})
        connection = await asyncpg.connect(database)
        try:
            async with connection.transaction():
                await connection.execute("LOCK TABLE run_signals IN ACCESS EXCLUSIVE MODE")
                stored = await api.append("ext", [{"type": "DebugTrace", "fn": "go.on"}], fence=fence)
        finally:
            await connection.close()
        assert stored.status_code == 200, "a caller who hears of an error sends the events again"
        assert (stored.json()["lastSeq"], "signals" in stored.json()) == (2, False)
        answer = await api.append("ext", [], fence=fence)
        assert [one["n"] for one in answer.json()["signals"]] == [1]


async def test_a_refused_append_acknowledges_nothing(api: Api) -> None:
    fence = await api.external("ext")
    await api.http.post(f"{RUNS}/ext/signal", json={"name": "go"})
    refused = await api.append("ext", [], fence=fence, ifSeq=7, signalsTaken=1)
    assert refused.status_code == 409
    assert [one["n"] for one in (await api.append("ext", [], fence=fence)).json()["signals"]] == [1]
