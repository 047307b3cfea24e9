"""Requests beyond the limits are refused, counted, and told when to try again."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from ipaddress import ip_network
from typing import Any

import httpx
import pytest

from runwire.errors import Overloaded
from runwire.server.admission import CLIENTS_MAX, Admission, AdmissionLimits
from runwire.settings import Settings
from runwire.telemetry.metrics import Metrics
from server.calls import RUNS, Api, streaming
from waiting import eventually

LIMITS = {"streams_max": 3, "streams_per_run_max": 2, "runs_open_max": 4}


@pytest.fixture
def overrides() -> dict[str, Any]:
    return dict(LIMITS)


async def refused(admin: httpx.AsyncClient, code: str) -> float:
    scrape = (await admin.get("/metrics")).text
    line = next(
        line for line in scrape.splitlines() if line.startswith(f'runwire_requests_refused_total{{code="{code}"')
    )
    return float(line.rsplit(" ", 1)[1])


async def test_a_stream_beyond_the_limit_is_told_when_to_come_back_and_gets_a_place_that_was_left(
    api: Api, admin: httpx.AsyncClient
) -> None:
    for run_id in ("a", "b"):
        await api.external(run_id)
    async with streaming(api, "a"), streaming(api, "b"):
        async with streaming(api, "a"):
            answer = await api.http.get(f"{RUNS}/b/stream")
            assert (answer.status_code, answer.json()["code"]) == (503, "too_many_streams")
            assert int(answer.headers["Retry-After"]) > 0
            assert await refused(admin, "too_many_streams") == 1

        async def place_was_left() -> bool:
            async with api.http.stream("GET", f"{RUNS}/b/stream") as response:
                return response.status_code == 200

        await eventually(place_was_left)


async def test_one_run_cannot_take_all_places(api: Api) -> None:
    await api.external("popular")
    async with streaming(api, "popular"), streaming(api, "popular"):
        answer = await api.http.get(f"{RUNS}/popular/stream")
        assert (answer.status_code, answer.json()["code"]) == (503, "too_many_streams")


async def test_starts_beyond_the_open_runs_are_refused_and_go_on_when_runs_have_ended(
    api: Api, admin: httpx.AsyncClient
) -> None:
    fences = {run_id: await api.external(run_id) for run_id in ("r1", "r2", "r3", "r4")}
    answer = await api.http.post(RUNS, json={"runId": "r5", "external": True})
    assert (answer.status_code, answer.json()["code"]) == (503, "too_many_runs")
    assert int(answer.headers["Retry-After"]) > 0
    assert await refused(admin, "too_many_runs") == 1
    assert (await api.http.get(f"{RUNS}/r5")).status_code == 404
    await api.finish("r1", fence=fences["r1"])

    async def room_again() -> bool:
        return (await api.http.post(RUNS, json={"runId": "r5", "external": True})).status_code == 202

    await eventually(room_again)


class TestRate:
    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {"requests_per_s": 2.0}

    async def test_who_sends_too_many_requests_is_slowed_down(self, api: Api, admin: httpx.AsyncClient) -> None:
        answers = await asyncio.gather(*(api.http.get(f"{RUNS}/none") for _ in range(60)))
        late = [answer for answer in answers if answer.status_code == 429]
        assert late, "four are let through at once and two a second, sixty sent together are not"
        assert late[0].json()["code"] == "too_many_requests"
        assert int(late[0].headers["Retry-After"]) >= 1
        assert await refused(admin, "too_many_requests") == len(late)


def admission(**limits: Any) -> tuple[Admission, list[float]]:
    clock = [100.0]
    metrics = Metrics()
    return Admission(AdmissionLimits(**limits), refused=metrics.requests_refused, now=lambda: clock[0]), clock


def test_a_rate_lets_a_burst_through_then_its_pace_and_each_client_has_its_own() -> None:
    gate, clock = admission(requests_per_s=10)
    for _ in range(20):
        gate.request("1.1.1.1")
    with pytest.raises(Overloaded) as caught:
        gate.request("1.1.1.1")
    assert (caught.value.code, caught.value.retry_after_s) == ("too_many_requests", 1)
    gate.request("2.2.2.2")
    clock[0] += 0.1
    gate.request("1.1.1.1")
    with pytest.raises(Overloaded):
        gate.request("1.1.1.1")


def test_a_rate_below_one_a_second_still_lets_one_request_through() -> None:
    gate, clock = admission(requests_per_s=0.1)
    gate.request("slow")
    with pytest.raises(Overloaded) as caught:
        gate.request("slow")
    clock[0] += caught.value.retry_after_s
    gate.request("slow")


def test_the_rates_of_however_many_clients_take_bounded_memory() -> None:
    gate, _ = admission(requests_per_s=1)
    for number in range(CLIENTS_MAX + 1000):
        for _again in range(2):
            gate.request(f"client {number}")
    with pytest.raises(Overloaded):
        gate.request("client 1000")
    gate.request("client 999")  # it is forgotten, as are all before it


def test_places_are_counted_by_client_too_and_nothing_is_kept_of_those_that_left() -> None:
    gate, _ = admission(streams_per_client=2)
    with ExitStack() as held:
        held.enter_context(gate.stream("r1", "1.1.1.1"))
        held.enter_context(gate.stream("r2", "1.1.1.1"))
        with pytest.raises(Overloaded) as caught, gate.stream("r3", "1.1.1.1"):
            pass
        assert caught.value.code == "too_many_own_streams"
        held.enter_context(gate.stream("r3", "2.2.2.2"))
    with ExitStack() as held:
        for client in ("1.1.1.1", "2.2.2.2"):
            for _ in range(2):
                held.enter_context(gate.stream("r1", client))


def test_trusted_proxies_are_networks() -> None:
    assert Settings(trusted_proxies="10.0.0.0/8, ::1/128").trusted_proxies == (
        ip_network("10.0.0.0/8"),
        ip_network("::1/128"),
    )
