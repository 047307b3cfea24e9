"""The stream of many runs over HTTP: who may open it, what it refuses, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from runwire.assembly import Assembly
from runwire.client import Client, StreamEnd
from runwire.errors import CheckpointGone, RunNotFound
from runwire.model.event import Event
from runwire.stream import Streams
from runwire.telemetry.metrics import DisconnectReason
from server.calls import RUNS, Api, EventStream
from server.issuer import Issuer

STREAM = "/api/agents/stream"
ISSUER = Issuer()


@asynccontextmanager
async def streaming(api: Api, query: str, **headers: str) -> AsyncIterator[EventStream]:
    async with api.http.stream("GET", f"{STREAM}?{query}", headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield EventStream(response, response.aiter_lines())


async def test_a_session_s_runs_come_on_one_stream_and_new_ones_join(api: Api) -> None:
    first = (await api.start(session="chat"))["runId"]
    await api.ended(first)
    async with streaming(api, "session=chat") as stream:
        assert stream.response.headers["Content-Type"] == "text/event-stream"
        assert stream.response.headers["Cache-Control"] == "no-cache, no-transform"
        assert stream.response.headers["X-Accel-Buffering"] == "no"
        begin = await stream.frames(2)
        assert (begin[0].fields, list(begin[1].fields)) == ({"retry": "2000"}, ["id"])
        told = await stream.frames(14)
        assert [frame.data["seq"] for frame in told[:13]] == list(range(1, 14))
        assert told[13].fields["event"] == "end"
        assert told[13].data == {"runId": first, "state": "finished", "lastSeq": 13}
        second = (await api.start(session="chat"))["runId"]
        told = await stream.frames(14)
        assert {frame.data["runId"] for frame in told} == {second}
        last_id = told[6].fields["id"]
    async with streaming(api, "session=chat", **{"Last-Event-ID": last_id}) as stream:
        rest = (await stream.frames(9))[2:]
        assert [frame.data.get("seq") for frame in rest] == [8, 9, 10, 11, 12, 13, None]


async def test_a_list_of_which_all_is_told_is_answered_204_and_a_label_is_not(api: Api) -> None:
    runs = [(await api.start(labels={"env": "prod"}))["runId"] for _ in range(2)]
    query = "&".join(f"run={run}" for run in runs)
    async with streaming(api, query) as stream:
        frames = await stream.rest()
    last_id = frames[-1].fields["id"]
    assert frames[-1].fields["event"] == "end"
    again = await api.http.get(f"{STREAM}?{query}", headers={"Last-Event-ID": last_id})
    assert (again.status_code, again.content) == (204, b"")
    polyfill = await api.http.get(f"{STREAM}?{query}&lastEventId={last_id}")
    assert polyfill.status_code == 204
    async with streaming(api, "label=env:prod") as stream:
        frames = await stream.frames(30)
        assert {frame.data["runId"] for frame in frames[2:]} == set(runs)


async def test_what_names_no_runs_is_refused(api: Api) -> None:
    run = (await api.start())["runId"]
    for query, status, code in (
        ("", 400, "invalid_selector"),
        ("session=a&session=b", 400, "invalid_selector"),
        (f"run={run}&session=a", 400, "invalid_selector"),
        ("&".join(f"run=r{n}" for n in range(501)), 400, "invalid_selector"),
        ("run=a%20b", 400, "invalid_run_id"),
        ("session=a%20b", 400, "invalid_session"),
        ("label=x", 400, "invalid_labels"),
        (f"run={run}&fromSeq=3", 400, "unknown_parameter"),
        (f"run={run}&run=nobody", 404, "run_not_found"),
    ):
        for method, path in (("GET", STREAM), ("POST", f"{STREAM}-ticket")):
            answer = await api.http.request(method, f"{path}?{query}")
            assert (answer.status_code, answer.json()["code"]) == (status, code), (method, query)
    for last_id, status, code in (
        ("17", 400, "invalid_cursor"),
        ("0.zz", 400, "invalid_cursor"),
        ("0.a99", 400, "cursor_past_tail"),
        ("zzzzz.", 410, "checkpoint_gone"),
    ):
        answer = await api.http.get(f"{STREAM}?run={run}", headers={"Last-Event-ID": last_id})
        assert (answer.status_code, answer.json()["code"]) == (status, code), last_id


async def test_open_streams_are_counted_by_kind_and_drained_resumable(service: Assembly, api: Api) -> None:
    await api.external("a", session="chat")

    async def open_streams() -> dict[str, str]:
        async with httpx.AsyncClient(base_url=service.admin_url) as admin:
            lines = (await admin.get("/metrics")).text.splitlines()
        return {
            line.partition('kind="')[2].partition('"')[0]: line.rpartition(" ")[2]
            for line in lines
            if line.startswith("runwire_streams_open{")
        }

    async with streaming(api, "session=chat") as by_session, streaming(api, "run=a") as by_run:
        assert await open_streams() == {"run": "0.0", "runs": "1.0", "session": "1.0", "label": "0.0"}
        draining = asyncio.create_task(service.part(Streams).drain())
        for stream in (by_session, by_run):
            assert "retry" in (await stream.rest())[-1].fields
        await draining


async def test_the_client_follows_many_runs_through_reconnects(service: Assembly, api: Api) -> None:
    async with Client(service.url) as client:
        first = await client.start(session="chat", input={"delay_ms": 60})
        told: dict[str, list[int | str]] = {}
        async with client.stream_runs(session="chat") as stream:
            async for what in stream:
                told.setdefault(what.run_id, []).append(what.seq if isinstance(what, Event) else what.state)
                if len(told[first.run_id]) == 4 and len(told) == 1:
                    await client.start(session="chat", run_id="second", input={"delay_ms": 30})
                    for session in service.part(Streams).sessions:
                        session.ask_to_end(DisconnectReason.ROTATE)
                if len(told) == 2 and all(seen[-1] == "finished" for seen in told.values()):
                    break
            assert stream.connections >= 2
        golden = [*range(1, 14), "finished"]
        assert told == {first.run_id: golden, "second": golden}
        listed = client.stream_runs(runs=[first, "second"])
        ends = [what.run_id async for what in listed if isinstance(what, StreamEnd)]
        assert sorted(ends) == sorted(told)
        nothing = client.stream_runs(runs=[first, "second"], after=listed.last_id)
        assert [what async for what in nothing] == []
        with pytest.raises(CheckpointGone):
            await anext(client.stream_runs(session="chat", after="zzz."))
        with pytest.raises(RunNotFound):
            await anext(client.stream_runs(runs=["nobody"]))


# ------------------------------------------------------------------ tenants


@pytest.fixture
def overrides(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    return ISSUER.settings(tmp_path) if "tenant" in request.node.name else {}


class TestOnePlace:
    @pytest.fixture
    def overrides(self, tmp_path: Path) -> dict[str, Any]:
        return ISSUER.settings(tmp_path, streams_per_run_max=1)

    async def test_a_session_of_one_tenant_takes_no_place_of_its_namesake(self, service: Assembly) -> None:
        async with httpx.AsyncClient(base_url=service.url, timeout=10) as http:
            ours, theirs = ({"Authorization": f"Bearer {ISSUER.token(tenant=tenant)}"} for tenant in ("acme", "evil"))
            async with streaming(Api(http), "session=chat", **theirs), streaming(Api(http), "session=chat", **ours):
                answer = await http.get(f"{STREAM}?session=chat", headers=ours)
                assert (answer.status_code, answer.json()["code"]) == (503, "too_many_streams")


async def test_of_another_tenant_neither_runs_nor_sessions_nor_cursors_are_there(service: Assembly) -> None:
    async with httpx.AsyncClient(base_url=service.url, timeout=10) as http:
        ours, theirs = ({"Authorization": f"Bearer {ISSUER.token(tenant=tenant)}"} for tenant in ("acme", "evil"))
        for who, run in ((ours, "acme:r"), (theirs, "evil:r")):
            body = {"runId": run, "session": "chat", "labels": {"env": "prod"}}
            assert (await http.post(RUNS, json=body, headers=who)).status_code == 202

        async def told(query: str, who: dict[str, str], count: int = 16, **more: str) -> tuple[set[str], str]:
            async with http.stream("GET", f"{STREAM}?{query}", headers=who | more) as response:
                assert response.status_code == 200, await response.aread()
                frames = (await EventStream(response, response.aiter_lines()).frames(count))[2:]
                return {frame.data["runId"] for frame in frames}, frames[-1].fields["id"]

        for query in ("session=chat", "label=env:prod"):
            seen, last_id = await told(query, ours)
            assert seen == {"acme:r"}
            assert (await told(query, theirs))[0] == {"evil:r"}
            stolen = await http.get(f"{STREAM}?{query}", headers=theirs | {"Last-Event-ID": last_id})
            unknown = await http.get(f"{STREAM}?{query}", headers=theirs | {"Last-Event-ID": "zzzzz."})
            assert (stolen.status_code, stolen.json()) == (410, unknown.json())
        foreign = await http.get(f"{STREAM}?run=acme:r", headers=theirs)
        nobody = await http.get(f"{STREAM}?run=acme:n", headers=theirs)
        assert foreign.status_code == nobody.status_code == 404
        assert foreign.json()["code"] == nobody.json()["code"]
        # A ticket is for just these runs, and for its tenant.
        ticket = (await http.post(f"{STREAM}-ticket?session=chat", headers=ours)).json()["ticket"]
        assert (await told(f"session=chat&ticket={ticket}", {}))[0] == {"acme:r"}
        for other in ("session=other", "label=env:prod", "run=acme:r"):
            answer = await http.get(f"{STREAM}?{other}&ticket={ticket}")
            assert (answer.status_code, answer.json()["code"]) == (401, "credentials_invalid"), other
        one = await http.get(f"{RUNS}/acme:r/stream?ticket={ticket}")
        assert one.status_code == 401
        none = await http.post(f"{STREAM}-ticket?run=acme:r", headers=theirs)
        assert (none.status_code, none.json()["code"]) == (404, "run_not_found")


async def test_a_run_that_a_tenant_starts_joins_its_streams_only(service: Assembly) -> None:
    async with httpx.AsyncClient(base_url=service.url, timeout=10) as http:
        ours, theirs = ({"Authorization": f"Bearer {ISSUER.token(tenant=tenant)}"} for tenant in ("acme", "evil"))
        async with http.stream("GET", f"{STREAM}?session=chat", headers=ours) as response:
            stream = EventStream(response, response.aiter_lines())
            await stream.frames(2)
            for who in (theirs, ours):
                assert (await http.post(RUNS, json={"session": "chat"}, headers=who)).status_code == 202
            told = await stream.frames(14)
            assert {frame.data["runId"].partition(":")[0] for frame in told} == {"acme"}
