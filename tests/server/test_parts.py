"""Parts over HTTP: written by the holder of a run's fence, read as a Durable Stream."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from pipeline import raw
from runwire.assembly import Assembly
from runwire.client import SseParser
from runwire.content.part import Part, PartState
from runwire.content.part_feed import Hear, PartFeed
from runwire.content.part_metrics import PartMetrics
from runwire.content.parts import PartReader, Read
from runwire.errors import ContentUnavailable, DatabaseUnavailable, RunwireError
from runwire.server import part_stream
from runwire.server import parts as parts_routes
from runwire.telemetry.exposition import Exposition
from server.calls import RUNS, Api, exchanged, streaming
from waiting import eventually

PART = f"{RUNS}/r/parts/1"
BYTES = f"{PART}/bytes"


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {"part_bytes_max": 2000, "parts_per_run_max": 3, "sse_heartbeat_s": 1.0}


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_a_part_is_opened_written_and_closed_and_read_at_any_time(api: Api) -> None:
    fence = await api.external("r")
    opened = await api.open_part("r", fence=fence, mediaType="text/markdown")
    assert opened.headers["Location"] == PART
    assert opened.json() == {
        "part": 1, "name": "answer", "mediaType": "text/markdown", "attempt": 1, "state": "open", "size": 0,
    }  # fmt: skip
    first = await api.write_part("r", "one ", fence=fence)
    assert first.status_code == 204, first.text
    page = await api.http.get(PART)
    assert (page.text, page.headers["Content-Type"]) == ("one ", "text/markdown")
    assert page.headers["Stream-Next-Offset"] == first.headers["Stream-Next-Offset"]
    assert page.headers["Stream-Up-To-Date"] == "true"
    assert "Stream-Closed" not in page.headers
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Content-Disposition"] == "attachment"
    last = await api.write_part("r", "two", fence=fence, close=True)
    assert last.headers["Stream-Closed"] == "true"
    rest = await api.http.get(PART, params={"offset": page.headers["Stream-Next-Offset"]})
    assert (rest.text, rest.headers["Stream-Closed"]) == ("two", "true")
    late = await api.write_part("r", "three", fence=fence)
    assert (*code_of(late), late.headers["Stream-Closed"]) == (409, "part_ended", "true")
    assert late.headers["Stream-Next-Offset"] == last.headers["Stream-Next-Offset"]
    assert (await api.write_part("r", "", fence=fence, close=True)).status_code == 204  # a repeat changes nothing
    await api.finish("r", fence=fence)
    assert (await api.http.get(PART)).text == "one two"
    events = (await api.http.get(f"{RUNS}/r/events")).json()["events"]
    assert [event.get("fn") for event in events][1:4] == [
        "part:answer:1:opened", "part:answer:1:sealed", "artifact:answer:1",
    ]  # fmt: skip
    artifact = await api.http.get(f"{RUNS}/r/artifacts/1")
    assert (artifact.text, artifact.headers["Content-Type"]) == ("one two", "text/markdown")
    listed = (await api.http.get(f"{RUNS}/r/parts")).json()["parts"]
    assert [(part["part"], part["state"], part["size"]) for part in listed] == [(1, "sealed", 7)]


async def test_an_etag_changes_with_bytes_and_with_closure(api: Api) -> None:
    fence = await api.external("r")
    await api.open_part("r", fence=fence)
    await api.write_part("r", "x", fence=fence)
    open_ = (await api.http.get(PART)).headers["ETag"]
    assert (await api.http.get(PART, headers={"If-None-Match": open_})).status_code == 304
    await api.write_part("r", "", fence=fence, close=True)
    closed = await api.http.get(PART, headers={"If-None-Match": open_})
    assert (closed.status_code, closed.headers["ETag"] != open_) == (200, True)
    head = await api.http.head(PART)
    assert (head.headers["Stream-Closed"], head.headers["Cache-Control"]) == ("true", "no-store")


async def test_a_repeated_write_at_an_offset_stores_nothing_twice(api: Api) -> None:
    fence = await api.external("r")
    start = (await api.open_part("r", fence=fence)).headers["Stream-Next-Offset"]
    first = await api.write_part("r", "once", fence=fence, offset=start)
    again = await api.write_part("r", "once", fence=fence, offset=start)
    assert code_of(again) == (409, "part_offset_conflict")
    assert again.json()["size"] == 4
    await api.write_part("r", " more", fence=fence, offset=first.headers["Stream-Next-Offset"])
    assert (await api.http.get(PART)).text == "once more"


async def test_a_long_poll_waits_for_bytes_and_for_the_end(api: Api) -> None:
    fence = await api.external("r")
    await api.open_part("r", fence=fence)
    waiting = asyncio.create_task(api.http.get(PART, params={"offset": "now", "live": "long-poll"}))
    await asyncio.sleep(0)
    await api.write_part("r", "news", fence=fence)
    answer = await waiting
    if answer.status_code == 200 and not answer.text:  # it came when the bytes were there
        pytest.fail("a long-poll without bytes must be 204")
    if answer.status_code == 200:
        assert answer.text == "news"
    at = (await api.http.head(PART)).headers["Stream-Next-Offset"]
    silent = await api.http.get(PART, params={"offset": at, "live": "long-poll"})
    assert (silent.status_code, silent.headers["Stream-Up-To-Date"]) == (204, "true")
    assert int(silent.headers["Stream-Cursor"]) > 0
    ending = asyncio.create_task(api.http.get(PART, params={"offset": at, "live": "long-poll"}))
    await asyncio.sleep(0)
    await api.write_part("r", "", fence=fence, close=True)
    ended = await ending
    assert (ended.status_code, ended.headers["Stream-Closed"]) == (204, "true")


async def test_server_sent_events_carry_text_whole_characters_at_a_time_until_the_end(api: Api) -> None:
    fence = await api.external("r")
    await api.open_part("r", fence=fence)
    frames: list[tuple[str, str]] = []

    async def follow() -> None:
        async with api.http.stream("GET", PART, params={"offset": "-1", "live": "sse"}) as response:
            event, data = "", []
            async for line in response.aiter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data:"):
                    data.append(line.removeprefix("data:").removeprefix(" "))
                elif not line and event:
                    frames.append((event, "\n".join(data)))
                    event, data = "", []

    following = asyncio.create_task(follow())
    await eventually(lambda: frames)
    text = "Grüße\n\nevent: control\n🚀 ende".encode()
    for n in range(len(text)):
        await api.write_part("r", text[n : n + 1], fence=fence)
    await api.write_part("r", "", fence=fence, close=True)
    await following
    assert "".join([data for event, data in frames if event == "data"]) == text.decode()
    last = json.loads(frames[-1][1])
    assert frames[-1][0] == "control"
    assert (last["streamClosed"], last["upToDate"], "streamCursor" in last) == (True, True, False)


async def test_text_that_begins_with_a_blank_keeps_it_and_line_ends_come_in_base64(api: Api) -> None:
    fence = await api.external("r")
    await api.open_part("r", fence=fence)
    text = "  two blanks\n one\r\nnone"
    await api.write_part("r", text, fence=fence, close=True)
    where = {"offset": "-1", "live": "sse"}
    plain = await api.http.get(PART, params=where)
    [data, _] = SseParser().feed(plain.content)
    assert data.data == text.replace("\r\n", "\n")
    exact = await api.http.get(PART, params=where, headers={"Stream-SSE-Data-Encoding": "base64"})
    assert exact.headers["Stream-SSE-Data-Encoding"] == "base64"
    [data, _] = SseParser().feed(exact.content)
    assert base64.b64decode(data.data).decode() == text


async def test_an_abandoned_part_begins_again_when_its_name_is_opened(api: Api) -> None:
    fence = await api.external("r")
    headers = {"Runwire-Fence": str(fence)}
    await api.open_part("r", fence=fence)
    await api.write_part("r", "half", fence=fence)
    assert code_of(await api.http.delete(PART)) == (400, "missing_fence")
    assert code_of(await api.http.delete(PART, headers={"Runwire-Fence": "1"})) == (409, "fence_stale")
    assert code_of(await api.http.delete(f"{RUNS}/r/parts/2", headers=headers)) == (404, "part_not_found")
    for _ in range(2):  # a repeat changes nothing
        assert (await api.http.delete(PART, headers=headers)).status_code == 204
    assert (await api.http.get(PART)).text == "half"
    assert code_of(await api.write_part("r", "more", fence=fence)) == (409, "part_ended")
    again = await api.open_part("r", fence=fence)
    assert (again.json()["part"], again.json()["attempt"]) == (1, 2)
    await api.write_part("r", "whole", fence=fence, close=True)
    assert code_of(await api.http.delete(PART, headers=headers)) == (409, "part_ended")
    await api.finish("r", fence=fence)
    assert code_of(await api.http.delete(PART, headers=headers)) == (409, "part_ended")
    assert (await api.http.get(PART)).text == "whole"
    events = (await api.http.get(f"{RUNS}/r/events")).json()["events"]
    assert [event["fn"] for event in events if event.get("fn", "").startswith("part:")] == [
        "part:answer:1:opened", "part:answer:1:abandoned", "part:answer:1:opened", "part:answer:1:sealed",
    ]  # fmt: skip


async def test_bad_offsets_parts_and_names_are_refused_with_their_codes(api: Api) -> None:
    fence = await api.external("r")
    await api.open_part("r", fence=fence)
    headers = {"Runwire-Fence": str(fence)}
    for query, code in (
        ({"offset": "0,1"}, "invalid_offset"),
        ({"offset": ""}, "invalid_offset"),
        ({"offset": "0000000001_00000000000000000009"}, "invalid_offset"),
        ({"live": "sse"}, "invalid_offset"),
        ({"offset": "-1", "live": "carrier-pigeon"}, "invalid_offset"),
    ):
        assert code_of(await api.http.get(PART, params=query)) == (400, code)
    assert code_of(await api.http.get(f"{RUNS}/r/parts/2")) == (404, "part_not_found")
    assert code_of(await api.http.get(f"{RUNS}/r/parts/0")) == (400, "invalid_part")
    assert code_of(await api.http.get(f"{RUNS}/nobody/parts/1")) == (404, "run_not_found")
    assert code_of(await api.http.get(f"{RUNS}/nobody/parts")) == (404, "run_not_found")
    for body, code in (
        ({"name": "a:b"}, "invalid_part_name"),
        ({"name": "a", "mediaType": "text"}, "invalid_media_type"),
    ):
        assert code_of(await api.http.post(f"{RUNS}/r/parts", json=body, headers=headers)) == (400, code)
    again = await api.http.post(f"{RUNS}/r/parts", json={"name": "answer"}, headers=headers)
    assert code_of(again) == (409, "part_open")
    assert code_of(await api.write_part("r", "x", fence=fence + 1)) == (409, "fence_stale")
    assert code_of(await api.write_part("r", "x" * 2001, fence=fence)) == (413, "part_too_large")
    zipped = {**headers, "Content-Encoding": "gzip"}
    assert code_of(await api.http.post(PART, content=b"zipped", headers=zipped)) == (415, "unsupported_encoding")
    for name in ("b", "c"):
        await api.open_part("r", fence=fence, name=name)
    full = await api.http.post(f"{RUNS}/r/parts", json={"name": "d"}, headers=headers)
    assert code_of(full) == (409, "too_many_parts")


async def test_nobody_writes_an_event_of_a_part_by_hand(api: Api) -> None:
    fence = await api.external("r")
    for fn in ("part:answer:1:sealed", "artifact:report:1"):
        answer = await api.append("r", [{"type": "DebugTrace", "fn": fn}], fence=fence)
        assert code_of(answer) == (422, "reserved_fn")


async def test_a_sealed_part_is_an_artifact_and_its_rows_are_gone(api: Api, database: str) -> None:
    fence = await api.external("r")
    for n, text in ((1, "same"), (2, "same")):  # a second part of the same bytes is the same artifact
        await api.open_part("r", fence=fence)
        await api.write_part("r", text, fence=fence, n=n, close=True)
    connection = await raw(database)
    assert await connection.fetchval("SELECT count(*) FROM part_chunks") == 0
    assert [row["artifact"] for row in await connection.fetch("SELECT artifact FROM parts ORDER BY n")] == [1, 1]
    await connection.close()
    await api.finish("r", fence=fence)
    assert (await api.http.get(f"{RUNS}/r/parts/2")).text == "same"
    assert (await api.http.delete(f"{RUNS}/r/artifacts/1")).status_code == 204
    assert code_of(await api.http.get(PART)) == (410, "artifact_erased")
    async with streaming(api, "r", query="?parts=*") as stream:  # events go on without the bytes
        frames = await stream.rest()
    assert [frame.fields.get("event") for frame in frames if "event" in frame.fields] == ["end"]


async def test_half_a_character_is_waited_for_and_not_read_again_and_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence = await api.external("r")
    await api.open_part("r", fence=fence)
    text = "Grün".encode()
    await api.write_part("r", text[:3], fence=fence)
    reads = 0
    read = PartReader.read

    async def counted(self: PartReader, run_id: str, n: int, **where: int) -> Read:
        nonlocal reads
        reads += 1
        return await read(self, run_id, n, **where)

    monkeypatch.setattr(PartReader, "read", counted)
    async with api.http.stream("GET", PART, params={"offset": "-1", "live": "sse"}) as response:
        lines = response.aiter_lines()
        while await anext(lines) != "data:Gr":
            pass
        before = reads
        while not (await anext(lines)).startswith(":"):  # a heartbeat: a second of silence
            pass
        assert reads - before <= 5
        await api.write_part("r", text[3:], fence=fence, close=True)
        assert "data:ün" in [line async for line in lines]


@pytest.mark.parametrize("error", [ContentUnavailable("away"), DatabaseUnavailable("away")])
async def test_a_stream_that_cannot_be_read_further_ends_without_a_second_answer(
    api: Api, service: Assembly, monkeypatch: pytest.MonkeyPatch, error: RunwireError
) -> None:
    fence = await api.external("r")
    await api.open_part("r", fence=fence)
    await api.write_part("r", "some", fence=fence)
    reads = 0
    read = PartReader.read

    async def failing(self: PartReader, run_id: str, n: int, **where: int) -> Read:
        nonlocal reads
        reads += 1
        if reads > 2:  # those that begin the stream
            raise error
        return await read(self, run_id, n, **where)

    monkeypatch.setattr(PartReader, "read", failing)
    port = urlsplit(service.url).port
    assert port is not None
    request = f"GET {PART}?offset=-1&live=sse HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
    answer = await exchanged(port, request.encode())
    assert b"data:some" in answer
    assert answer.count(b"HTTP/1.1") == 1


async def test_a_stream_of_a_part_that_is_erased_ends(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    fence = await api.external("r")
    await api.open_part("r", fence=fence)
    await api.write_part("r", "some", fence=fence, close=True)
    monkeypatch.setattr(part_stream, "READ_MAX", 2)
    monkeypatch.setattr(parts_routes, "READ_MAX", 2)
    read = PartReader.read

    async def erased_after(self: PartReader, run_id: str, n: int, *, offset: int, limit: int) -> Read:
        if offset:
            assert (await api.http.delete(f"{RUNS}/r/artifacts/1")).status_code == 204
        return await read(self, run_id, n, offset=offset, limit=limit)

    monkeypatch.setattr(PartReader, "read", erased_after)
    with pytest.raises(httpx.RemoteProtocolError):
        await asyncio.wait_for(api.http.get(PART, params={"offset": "-1", "live": "sse"}), 2)
    assert code_of(await api.http.get(PART)) == (410, "artifact_erased")


async def test_the_lag_of_bytes_is_counted_for_each_way_to_a_client(
    api: Api, service: Assembly, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence = await api.external("r")
    await api.open_part("r", fence=fence)
    lag = service.part(PartMetrics).lag
    listeners = 0
    listening = PartFeed.listening

    def counted(self: PartFeed, run_id: str, hear: Hear) -> AbstractContextManager[None]:
        nonlocal listeners
        listeners += 1
        return listening(self, run_id, hear)

    monkeypatch.setattr(PartFeed, "listening", counted)
    async with streaming(api, "r", query="?parts=*") as mixed:
        while "part:" not in (await mixed.frame()).fields.get("data", ""):  # type: ignore[union-attr]
            pass
        await eventually(lambda: listeners == 1, within_s=20)
        async with api.http.stream("GET", PART, params={"offset": "now", "live": "sse"}) as alone:
            lines = alone.aiter_lines()
            while await anext(lines) != "event: control":
                pass
            polling = asyncio.create_task(api.http.get(PART, params={"offset": "now", "live": "long-poll"}))
            await eventually(lambda: listeners == 3, within_s=20)
            await api.write_part("r", "word", fence=fence)
            assert (await polling).text == "word"
            await eventually(lambda: lag.count == 3, within_s=20)
    assert lag.sum < 60
    assert (await api.http.get(PART, params={"offset": "-1"})).text == "word"
    async with streaming(api, "r", query="?parts=*") as again:  # old bytes are not late
        while (await again.frame()).fields.get("event") != "part":  # type: ignore[union-attr]
            pass
    assert lag.count == 3


async def test_a_read_that_fails_after_its_last_reader_left_is_no_error_of_the_process() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    began, gate = asyncio.Event(), asyncio.Event()

    class Away:
        async def read(self, *_args: object, **_named: object) -> Read:
            began.set()
            await gate.wait()
            raise DatabaseUnavailable("away")

    reader: Any = Away()
    part = Part("r", 1, 1, 1, "answer", "text/plain", PartState.OPEN, 0, 1, None, None)
    reading = asyncio.create_task(part_stream.PartReads(PartFeed(), PartMetrics(Exposition())).read(reader, part, at=0))
    await began.wait()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    del reading
    gc.collect()
    assert complaints == []


async def test_bytes_of_a_part_renew_the_lease_of_their_run(api: Api, database: str) -> None:
    fence = await api.external("r", leaseSeconds=60)
    await api.open_part("r", fence=fence)
    connection = await raw(database)

    async def left_s() -> float:
        left: float = await connection.fetchval("SELECT extract(epoch FROM lease_until - now())::float8 FROM runs")
        return left

    try:
        await connection.execute("UPDATE runs SET lease_until = now() + interval '45 seconds'")
        await api.write_part("r", "a", fence=fence)
        assert await left_s() < 46  # most of it is left: the run's row is not written
        await connection.execute("UPDATE runs SET lease_until = now() + interval '20 seconds'")
        assert code_of(await api.write_part("r", "x", fence=fence + 1)) == (409, "fence_stale")
        assert await left_s() < 21
        await api.write_part("r", "b", fence=fence)
        assert await left_s() > 40
    finally:
        await connection.close()


async def test_a_part_without_an_artifact_is_erased_and_the_log_is_as_it_was(api: Api) -> None:
    fence = await api.external("r")
    await api.open_part("r", fence=fence)
    await api.write_part("r", "some", fence=fence)
    assert code_of(await api.http.delete(BYTES)) == (409, "part_open")
    await api.finish("r", fence=fence)
    before = (await api.http.get(f"{RUNS}/r/events")).json()
    assert (await api.http.get(PART)).text == "some"
    for _ in range(2):
        assert (await api.http.delete(BYTES)).status_code == 204
    assert code_of(await api.http.get(PART)) == (410, "part_erased")
    assert code_of(await api.http.get(PART, params={"offset": "-1", "live": "sse"})) == (410, "part_erased")
    assert code_of(await api.http.delete(f"{RUNS}/r/parts/2/bytes")) == (404, "part_not_found")
    assert (await api.http.get(f"{RUNS}/r/events")).json() == before
    async with streaming(api, "r", query="?parts=*") as stream:  # events go on without the bytes
        frames = await stream.rest()
    assert [frame.fields.get("event") for frame in frames if "event" in frame.fields] == ["end"]


async def test_erasing_a_sealed_part_erases_its_artifact(api: Api) -> None:
    fence = await api.external("r")
    await api.open_part("r", fence=fence)
    await api.write_part("r", "some", fence=fence, close=True)
    assert (await api.http.delete(BYTES)).status_code == 204
    assert code_of(await api.http.get(PART)) == (410, "artifact_erased")
    assert code_of(await api.http.get(f"{RUNS}/r/artifacts/1")) == (410, "artifact_erased")
