"""Clients of archived runs: the same answers as before, until the archive itself is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from archive.history import Archive, run_of
from runwire.assembly import Assembly
from runwire.db import Database
from runwire.model.event import Source, StoredEvent, WireEncoder
from runwire.stream import Streams
from server.calls import RUNS, Api
from server.issuer import Issuer
from waiting import eventually

ISSUER = Issuer()
OTHERS = ("api", "worker", "publisher", "observer")


@pytest.fixture
def overrides(tmp_path: Path) -> dict[str, Any]:
    return {"archive_url": str(tmp_path / "archive"), "roles": OTHERS, "observe_s": 0.05, "replays_max": 2}


@pytest.fixture
async def here(database: str, tmp_path: Path) -> Any:
    async with Database(database) as connected:
        yield Archive(connected, tmp_path / "archive")


def frames(log: list[StoredEvent], run_id: str, *, source: Source = Source.OUTBOX) -> str:
    encoder = WireEncoder(run_id, source=source)
    return "".join(f"id: {event.seq}\ndata: {encoder.json(event)}\n\n" for event in log)


async def body(api: Api, path: str, **headers: str) -> httpx.Response:
    return await api.http.get(f"{RUNS}/{path}", headers=headers)


async def test_every_answer_about_a_closed_run_is_the_same_from_cold_storage(api: Api, here: Archive) -> None:
    log = await run_of(here.database, "old", events=1234)
    asked = [f"old/events?fromSeq={after}&limit=400" for after in (0, 400, 999, 1200, 1233, 1234)]
    asked += [f"old/stream?fromSeq={after}" for after in (0, 1, 1000, 1233, 1234)]
    asked += [f"old/stream?fromSeq={after}&replay=1&speed=max" for after in (0, 17, 1234)]
    before = [await body(api, path) for path in asked]
    await here.run()
    assert await here.partitions() == []
    after = [await body(api, path) for path in asked]
    for path, one, other in zip(asked, before, after, strict=True):
        assert (one.status_code, one.content) == (other.status_code, other.content), path
        assert one.headers.get("ETag") == other.headers.get("ETag"), path
    assert frames(log, "old") in before[6].text
    etag = after[0].headers["ETag"]
    same = await body(api, asked[0], **{"If-None-Match": etag})
    assert same.status_code == 304
    assert [response.status_code for response in after[10:11]] == [204]
    past = await body(api, "old/stream?fromSeq=1235")
    assert (past.status_code, past.json()["code"]) == (400, "cursor_past_tail")


async def test_when_the_archive_is_gone_its_terminal_event_is_left(api: Api, here: Archive) -> None:
    log = await run_of(here.database, "old")
    await here.run()
    here.data_file().unlink()
    for path in ("old/events", "old/stream", "old/stream?replay=1", "old/events?fromSeq=11"):
        gone = await body(api, path)
        assert gone.status_code == 410, path
        assert (gone.json()["code"], gone.json()["earliestSeq"]) == ("cursor_expired", 13)
    assert frames(log[-1:], "old") in (await body(api, "old/stream?fromSeq=12")).text
    page = (await body(api, "old/events?fromSeq=12")).json()
    assert [event["type"] for event in page["events"]] == ["RunFinished"]
    assert (await body(api, "old/stream?fromSeq=13")).status_code == 204
    assert (await api.run("old"))["lastSeq"] == 13


async def test_an_archive_that_does_not_answer_is_a_503_and_not_a_loss(api: Api, here: Archive) -> None:
    await run_of(here.database, "old")
    await run_of(here.database, "young", days_ago=2)
    await here.run()
    moved = here.folder.rename(here.folder.with_name("elsewhere"))
    for path in ("old/events", "old/stream", "old/stream?replay=1"):
        answer = await body(api, path)
        assert (answer.status_code, answer.json()["code"]) == (503, "archive_unavailable"), path
        assert answer.headers["Retry-After"] == "1"
        assert str(moved.parent) not in answer.text
    assert (await body(api, "young/events")).status_code == 200
    here.folder.rmdir()  # made anew, and empty, by whoever looked into it
    moved.rename(here.folder)
    assert (await body(api, "old/events")).status_code == 200


class TestWithoutObserver:
    """An observer whose audit would find the damage of these tests, and log it."""

    @pytest.fixture
    def overrides(self, tmp_path: Path) -> dict[str, Any]:
        return {"archive_url": str(tmp_path / "archive"), "roles": ("api", "worker", "publisher")}

    async def test_what_is_not_what_was_archived_is_not_shown(self, api: Api, here: Archive) -> None:
        await run_of(here.database, "old")
        await here.run()
        data = bytearray(here.data_file().read_bytes())
        data[len(data) // 2] ^= 1
        here.data_file().write_bytes(data)
        answer = await body(api, "old/events")
        assert (answer.status_code, answer.json()["code"]) == (503, "archive_unavailable")


class TestTenants:
    @pytest.fixture
    def overrides(self, tmp_path: Path) -> dict[str, Any]:
        return ISSUER.settings(tmp_path, archive_url=str(tmp_path / "archive"), roles=OTHERS)

    async def test_an_archived_run_is_its_tenants_own_and_to_another_it_is_not_there(
        self, api: Api, here: Archive
    ) -> None:
        """Also when its owner has just read it, so that its frames are in memory."""
        log = await run_of(here.database, "acme:old", events=1234, tenant="acme")
        await here.database.execute(
            "INSERT INTO run_checkpoints (run_id, seq, next_node, state) VALUES ('acme:old', 1234, 'END', '{\"a\":1}')"
        )
        await here.run()
        assert await here.partitions() == []
        by_owner = {"Authorization": f"Bearer {ISSUER.token(tenant='acme')}"}
        by_other = {"Authorization": f"Bearer {ISSUER.token(tenant='evil')}"}
        reads = {
            "/events": frames(log[:1], "acme:old").split("data: ")[1].strip(),
            "/events?fromSeq=1100&limit=50": '"seq":1150',
            "/stream": frames(log, "acme:old"),
            "/stream?fromSeq=1000": frames(log[1000:], "acme:old"),
            "/stream?replay=1&speed=max": frames(log, "acme:old", source=Source.REPLAYER),
            "/stream?replay=1&speed=max&fromSeq=1200": frames(log[1200:], "acme:old", source=Source.REPLAYER),
            "/state": '"state":{"a":1}',
        }
        for path, shown in reads.items():
            before = await body(api, f"acme:old{path}", **by_other)
            own = await body(api, f"acme:old{path}", **by_owner)
            assert (own.status_code, shown in own.text) == (200, True), path
            after = await body(api, f"acme:old{path}", **by_other)
            unknown = await body(api, f"acme:new{path}", **by_other)
            for answer in (before, after):
                assert (answer.status_code, answer.json()["code"]) == (404, "run_not_found"), path
                assert answer.text.replace("acme:old", "acme:new") == unknown.text, path
        page = await body(api, "acme:old/events", **by_owner)
        known = {"If-None-Match": page.headers["ETag"]}
        assert (await body(api, "acme:old/events", **by_owner, **known)).status_code == 304
        assert (await body(api, "acme:old/events", **by_other, **known)).status_code == 404
        assert (await body(api, "acme:old/stream?fromSeq=1234", **by_other)).status_code == 404, "nor 204 at its end"

    async def test_a_ticket_opens_an_archived_run_for_its_tenant_only(self, api: Api, here: Archive) -> None:
        log = await run_of(here.database, "acme:old", tenant="acme")
        await here.run()
        path = f"{RUNS}/acme:old/stream-ticket"
        asked = [
            await api.http.post(path, headers={"Authorization": f"Bearer {ISSUER.token(tenant=tenant)}"})
            for tenant in ("evil", "acme")
        ]
        assert [answer.status_code for answer in asked] == [404, 200]
        ticket = asked[1].json()["ticket"]
        assert frames(log, "acme:old") in (await body(api, f"acme:old/stream?ticket={ticket}")).text


# ---------------------------------------------------------------------- replay


async def test_a_replay_is_the_stream_but_for_its_source(api: Api) -> None:
    run_id = (await api.start())["runId"]
    await api.ended(run_id)
    stream = await body(api, f"{run_id}/stream")
    replay = await body(api, f"{run_id}/stream?replay=1&speed=max")
    assert replay.headers["Content-Type"] == "text/event-stream"
    assert replay.text == stream.text.replace('"source":"outbox"', '"source":"replayer"')
    assert replay.text.rstrip().endswith(f'{{"runId":"{run_id}","state":"finished","lastSeq":13}}')
    resumed = await body(api, f"{run_id}/stream?replay=1&speed=max", **{"Last-Event-ID": "7"})
    assert resumed.text.startswith("retry: 2000\n\nid: 7\n\nid: 8\n")
    assert (await body(api, f"{run_id}/stream?replay=1&fromSeq=13")).status_code == 204


async def test_a_replay_keeps_the_run_s_own_time(api: Api, here: Archive) -> None:
    log = await run_of(here.database, "old", events=5)
    took_s = (log[-1].ts_us - log[0].ts_us) / 1e6
    loop = asyncio.get_running_loop()
    times: dict[float, float] = {}
    for speed in (1, 10):
        began = loop.time()
        await body(api, f"old/stream?replay=1&speed={speed}")
        times[speed] = loop.time() - began
    assert times[1] >= took_s - 0.01
    assert times[10] >= took_s / 10 - 0.01
    assert times[10] < times[1]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("replay=0", "invalid_replay"),
        ("speed=10", "invalid_replay"),
        ("replay=1&speed=0", "invalid_speed"),
        ("replay=1&speed=-1", "invalid_speed"),
        ("replay=1&speed=nan", "invalid_speed"),
        ("replay=1&speed=inf", "invalid_speed"),
        ("replay=1&speed=1001", "invalid_speed"),
        ("replay=1&speed=fast", "invalid_speed"),
        ("replay=1&fromSeq=x", "invalid_cursor"),
        ("replay=1&fromSeq=99", "cursor_past_tail"),
    ],
)
async def test_a_replay_that_cannot_be_is_refused(api: Api, here: Archive, query: str, code: str) -> None:
    await run_of(here.database, "old")
    answer = await body(api, f"old/stream?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, code)


async def test_a_run_that_goes_on_is_not_replayed(api: Api) -> None:
    await api.external("open")
    answer = await body(api, "open/stream?replay=1")
    assert (answer.status_code, answer.json()["code"], answer.json()["state"]) == (409, "run_open", "started")
    assert (await body(api, "nobody/stream?replay=1")).status_code == 404


async def test_replays_are_bounded_and_end_when_the_process_drains(service: Assembly, api: Api, here: Archive) -> None:
    await run_of(here.database, "old")
    await here.database.execute("UPDATE run_events SET ts_us = ts_us + 60000000 WHERE seq > 3")
    async with (
        api.http.stream("GET", f"{RUNS}/old/stream?replay=1") as first,
        api.http.stream("GET", f"{RUNS}/old/stream?replay=1"),
    ):
        assert first.status_code == 200
        refused = await body(api, "old/stream?replay=1")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_replays")
        assert refused.headers["Retry-After"] == "1"
        draining = asyncio.create_task(service.part(Streams).drain())
        text = "".join([part async for part in first.aiter_text()])
        await draining
        assert ": drain\nretry: " in text
        assert "event: end" not in text

    async def is_room() -> bool:
        return (await body(api, "old/stream?replay=1")).status_code == 200

    assert await eventually(is_room)


async def test_metrics_of_a_replay_have_a_path_of_their_own(api: Api, admin: httpx.AsyncClient, here: Archive) -> None:
    await run_of(here.database, "old")
    await body(api, "old/stream?replay=1&speed=max")
    scraped = (await admin.get("/metrics")).text
    assert 'runwire_events_delivered_total{path="replay"} 13.0' in scraped
    assert 'runwire_events_delivered_total{path="backfill"} 0.0' in scraped
    assert "runwire_sse_connections 0.0" in scraped


# ---------------------------------------------------------------------- what watches it


async def test_the_observer_tells_how_long_runs_have_waited_for_the_archive(
    api: Api, admin: httpx.AsyncClient, here: Archive
) -> None:
    """Whether an archiver lives or not, which this service has none of."""

    async def pending_days() -> float:
        [line] = [
            line
            for line in (await admin.get("/metrics")).text.splitlines()
            if line.startswith("runwire_archive_oldest_pending_seconds ")
        ]
        return float(line.split()[1]) / 86400

    await run_of(here.database, "old", days_ago=40)
    await run_of(here.database, "older", days_ago=50)
    await run_of(here.database, "young", days_ago=1)
    await eventually(lambda: _above(pending_days, 49.9))
    await here.run()
    await eventually(lambda: _below(pending_days, 1.1))


async def _above(probe: Any, limit: float) -> bool:
    return bool(await probe() > limit)


async def _below(probe: Any, limit: float) -> bool:
    return bool(await probe() < limit)
