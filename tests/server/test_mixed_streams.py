"""Streams with parts: events and bytes in one order, exactly once, from any id on."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pipeline import raw
from runwire.assembly import Assembly
from runwire.client import Client, PartPiece
from runwire.content.part_feed import PartFeed
from runwire.content.parts import Grown, PartReader, Reach, Read
from runwire.errors import ArtifactErased, ContentUnavailable, RunwireError
from runwire.stream.mixed import PART_BYTES
from server.calls import Api, Frame, streaming
from waiting import eventually


@pytest.fixture
def overrides() -> dict[str, Any]:
    return {"sse_heartbeat_s": 1.0}


@dataclass
class Transcript:
    """The events and bytes that one client has, by its frames."""

    events: list[str] = field(default_factory=list)
    content: dict[int, bytes] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    last_id: str = ""
    ended: bool = False

    def take(self, frame: Frame) -> None:
        kind = frame.fields.get("event", "")
        if "id" in frame.fields:
            self.last_id = frame.fields["id"]
        if kind == "end":
            self.ended = True
        elif kind == "part":
            self._take_part(frame.data)
        elif "data" in frame.fields:
            assert frame.data["seq"] == len(self.events) + 1
            self.events.append(frame.data.get("fn") or frame.data["type"])
            if frame.data.get("fn", "").startswith("part:") and frame.data["fn"].endswith(":opened"):
                self.content.setdefault(int(frame.data["fn"].split(":")[2]), b"")

    def _take_part(self, data: dict[str, Any]) -> None:
        n = data["part"]
        assert n in self.content, "bytes before the part was opened"
        if data.get("reset"):
            self.content[n] = b""
            self.attempts[n] = data["attempt"]
            return
        assert self.attempts.setdefault(n, data["attempt"]) == data["attempt"], "two attempts as one"
        assert data["offset"] == len(self.content[n]), "a gap or a repeat"
        self.content[n] += data["text"].encode() if "text" in data else base64.b64decode(data["base64"])


async def test_events_and_bytes_come_once_and_in_order_live_and_from_any_id(api: Api) -> None:
    fence = await api.external("r")
    seen = Transcript()
    frames: list[Frame] = []

    async def follow() -> None:
        async with streaming(api, "r", query="?parts=*") as stream:
            while (frame := await stream.frame()) is not None:
                frames.append(frame)
                seen.take(frame)

    following = asyncio.create_task(follow())
    await eventually(lambda: seen.events)
    await api.open_part("r", fence=fence, name="answer")
    text = "Grüße, 世界! 🚀".encode() * 3
    for n in range(0, len(text), 5):
        await api.write_part("r", text[n : n + 5], fence=fence)
        if n == 20:
            await api.append("r", [{"type": "DebugTrace", "fn": "between"}], fence=fence)
            await api.open_part("r", fence=fence, name="raw", mediaType="image/png")
            await api.write_part("r", b"\x00\xff\xc3", fence=fence, n=2)
    await api.write_part("r", "", fence=fence, n=2, close=True)
    await api.write_part("r", "", fence=fence, close=True)
    await api.finish("r", fence=fence)
    await following
    assert seen.ended
    assert seen.content == {1: text, 2: b"\x00\xff\xc3"}
    assert seen.events[-5:] == [
        "part:raw:2:sealed", "artifact:raw:1", "part:answer:1:sealed", "artifact:answer:2", "RunFinished",
    ]  # fmt: skip

    for cut in range(1, len(frames)):  # each id is a place from which the rest comes, and nothing else
        resumed = Transcript()
        for frame in frames[:cut]:
            resumed.take(frame)
        if resumed.ended:
            break
        headers = {"Last-Event-ID": resumed.last_id}
        answer = await api.http.get("/api/agents/runs/r/stream?parts=*", headers=headers)
        if answer.status_code == 204:
            assert resumed.events == seen.events
            continue
        async with streaming(api, "r", query="?parts=*", headers=headers) as stream:
            for frame in await stream.rest():
                resumed.take(frame)
        assert (resumed.events, resumed.content, resumed.ended) == (seen.events, seen.content, True)


async def test_a_part_that_is_begun_again_is_told_as_a_reset(api: Api, database: str) -> None:
    fence = await api.external("r")
    await api.open_part("r", fence=fence)
    await api.write_part("r", "first try", fence=fence)
    seen = Transcript()
    async with streaming(api, "r", query="?parts=answer") as stream:
        while not seen.content.get(1):
            frame = await stream.frame()
            assert frame is not None
            seen.take(frame)
        assert seen.content == {1: b"first try"}
    connection = await raw(database)  # in place of a worker whose node fails
    await connection.execute("UPDATE parts SET state = 'abandoned', ended_seq = opened_seq")
    await connection.close()
    await api.open_part("r", fence=fence)
    await api.write_part("r", "second", fence=fence, close=True)
    await api.finish("r", fence=fence)
    async with streaming(api, "r", query="?parts=answer", headers={"Last-Event-ID": seen.last_id}) as stream:
        for frame in await stream.rest():
            seen.take(frame)
    assert (seen.content, seen.attempts) == ({1: b"second"}, {1: 2})


async def test_only_named_parts_are_mixed_in_and_plain_streams_keep_plain_ids(api: Api) -> None:
    fence = await api.external("r")
    for n, name in enumerate(("a", "b"), 1):
        await api.open_part("r", fence=fence, name=name)
        await api.write_part("r", name, fence=fence, n=n, close=True)
    await api.finish("r", fence=fence)
    async with streaming(api, "r", query="?parts=b") as stream:
        parts = [frame.data["part"] for frame in await stream.rest() if frame.fields.get("event") == "part"]
    assert parts == [2]
    async with streaming(api, "r") as stream:
        frames = await stream.rest()
    assert [frame.fields["id"] for frame in frames if "data" in frame.fields and "event" not in frame.fields] == [
        str(n) for n in range(1, 9)
    ]
    refused = {
        "?parts=": "invalid_part_name",
        "?parts=a&fromSeq=x": "invalid_cursor",
        "?parts=*&fromSeq=99": "cursor_past_tail",
        "?parts=*&replay=1": "invalid_replay",
    }
    for query, code in refused.items():
        answer = await api.http.get(f"/api/agents/runs/r/stream{query}")
        assert (answer.status_code, answer.json()["code"]) == (400, code)
    past = await api.http.get("/api/agents/runs/r/stream?parts=*", headers={"Last-Event-ID": "2~1.1:9"})
    assert (past.status_code, past.json()["code"]) == (400, "invalid_cursor")


async def test_clients_that_drop_at_random_see_every_byte_once(api: Api) -> None:
    """A small form of many runs, parts and subscribers: random cuts while the parts are written."""
    rng = random.Random(7)  # not for secrets
    fence = await api.external("r")
    texts = {n: bytes(rng.randrange(256) for _ in range(600)) for n in (1, 2, 3)}

    async def write() -> None:
        for n in texts:
            await api.open_part("r", fence=fence, name=f"p{n}", mediaType="application/octet-stream")
        at = dict.fromkeys(texts, 0)
        while open_ := [n for n in texts if at[n] < len(texts[n])]:
            n = rng.choice(open_)
            size = rng.randrange(1, 90)
            await api.write_part("r", texts[n][at[n] : at[n] + size], fence=fence, n=n)
            at[n] += size
        for n in texts:
            await api.write_part("r", "", fence=fence, n=n, close=True)
        await api.finish("r", fence=fence)

    async def watch() -> Transcript:
        seen = Transcript()
        while "RunFinished" not in seen.events:  # after it a reconnect is answered 204
            headers = {"Last-Event-ID": seen.last_id} if seen.last_id else {}
            async with streaming(api, "r", query="?parts=*", headers=headers) as stream:
                for _ in range(rng.randrange(1, 25)):
                    frame = await stream.frame()
                    if frame is None:
                        break
                    seen.take(frame)
        return seen

    writing = asyncio.create_task(write())
    transcripts = await asyncio.gather(*(watch() for _ in range(6)))
    await writing
    for seen in transcripts:
        assert seen.content == texts


async def test_the_client_gives_events_and_bytes_in_order(api: Api, service: Assembly) -> None:
    fence = await api.external("r")
    await api.open_part("r", fence=fence)
    for piece in ("Hällo ", "world"):
        await api.write_part("r", piece, fence=fence)
    async with Client(service.url) as client, client.stream_with_parts("r") as stream:
        seen: list[str | bytes] = []
        async for item in stream:
            seen.append(item.data if isinstance(item, PartPiece) else item.fn or item.type)
            if seen[-1] == "Hällo world".encode():
                await api.write_part("r", "!", fence=fence, close=True)
                await api.finish("r", fence=fence)
        assert stream.end is not None
    assert seen == [
        "RunStarted", "part:answer:1:opened", "Hällo world".encode(), b"!", "part:answer:1:sealed", "artifact:answer:1",
        "RunFinished",
    ]  # fmt: skip


@pytest.mark.parametrize("error", [ContentUnavailable("away"), ArtifactErased("r", 1)])
async def test_a_part_that_cannot_be_read_now_ends_the_stream_resumably(
    api: Api, monkeypatch: pytest.MonkeyPatch, error: RunwireError
) -> None:
    fence = await api.external("r")
    await api.open_part("r", fence=fence)
    await api.write_part("r", "some", fence=fence)
    failing = False
    read, beyond = PartReader.read, PartReader.beyond

    async def perhaps(self: PartReader, run_id: str, n: int, *, offset: int, limit: int) -> Read:
        if failing and limit == PART_BYTES:
            raise error
        return await read(self, run_id, n, offset=offset, limit=limit)

    async def nothing_while_failing(self: PartReader, reaches: Sequence[Reach], *, limit: int) -> dict[int, Grown]:
        return {} if failing else await beyond(self, reaches, limit=limit)

    monkeypatch.setattr(PartReader, "read", perhaps)
    monkeypatch.setattr(PartReader, "beyond", nothing_while_failing)
    monkeypatch.setattr(PartFeed, "written", lambda _self, _written: None)  # the news are lost
    seen = Transcript()
    async with streaming(api, "r", query="?parts=*") as stream:
        while not seen.content.get(1):
            frame = await stream.frame()
            assert frame is not None
            seen.take(frame)
        failing = True
        await api.write_part("r", " more", fence=fence, close=True)
        frames = await stream.rest()
        assert "retry" in frames[-1].fields
    failing = False
    await api.finish("r", fence=fence)
    async with streaming(api, "r", query="?parts=*", headers={"Last-Event-ID": seen.last_id}) as stream:
        for frame in await stream.rest():
            seen.take(frame)
    assert (seen.content, seen.ended) == ({1: b"some more"}, True)


async def test_a_part_that_moves_to_the_store_while_it_is_read_comes_whole(api: Api) -> None:
    fence = await api.external("r")
    await api.open_part("r", fence=fence, name="raw", mediaType="application/octet-stream")
    data = random.Random(3).randbytes(700_000)  # more than PostgreSQL keeps of an artifact
    seen = Transcript()
    async with streaming(api, "r", query="?parts=*") as stream:
        for at in range(0, len(data), 100_000):
            await api.write_part("r", data[at : at + 100_000], fence=fence)
        while len(seen.content.get(1, b"")) < 100_000:
            frame = await stream.frame()
            assert frame is not None
            seen.take(frame)
        await api.write_part("r", "", fence=fence, close=True)
        await api.finish("r", fence=fence)
        for frame in await stream.rest():
            seen.take(frame)
    assert (seen.content, seen.ended) == ({1: data}, True)
