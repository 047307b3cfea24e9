"""Server-sent events over a real connection."""

from __future__ import annotations

import asyncio

import asyncpg
import httpx
import pytest

from runwire.assembly import Assembly
from runwire.stream import Streams
from runwire.stream.fanout.outlet import Outlet, Socket
from server.calls import RUNS, Api, exchanged, streaming
from waiting import eventually

PING = {"type": "NodeStarted", "name": "Ping"}


async def test_a_stream_is_the_run_from_its_first_event_to_the_end_frame(api: Api) -> None:
    run_id = (await api.start())["runId"]
    async with streaming(api, run_id) as stream:
        headers = stream.response.headers
        frames = await stream.rest()
    assert headers["Content-Type"] == "text/event-stream"
    assert headers["Cache-Control"] == "no-cache, no-transform"
    assert headers["X-Accel-Buffering"] == "no"
    assert [frame.fields for frame in frames[:2]] == [{"retry": "2000"}, {"id": "0"}]
    events = frames[2:-1]
    assert [frame.fields["id"] for frame in events] == [str(seq) for seq in range(1, 14)]
    assert [frame.data["seq"] for frame in events] == list(range(1, 14))
    assert all(set(frame.fields) == {"id", "data"} for frame in events)
    assert frames[-1].fields["event"] == "end"
    assert "id" not in frames[-1].fields
    assert frames[-1].data == {"runId": run_id, "state": "finished", "lastSeq": 13}


async def test_events_arrive_while_they_happen_after_those_that_were_stored(api: Api) -> None:
    fence = await api.external("ext")
    async with streaming(api, "ext") as stream:
        assert [frame.fields.get("id") for frame in await stream.frames(3)] == [None, "0", "1"]
        await api.append("ext", [PING], fence=fence)
        live = await stream.frame()
        assert live is not None
        assert (live.fields["id"], live.data["name"]) == ("2", "Ping")
        await api.append("ext", [{"type": "RunFinished"}], fence=fence, outcome="failed")
        last, end = await stream.frames(2)
        assert last.data["type"] == "RunFinished"
        assert end.data["state"] == "failed"
        assert await stream.frame() is None


async def test_a_stream_opened_before_the_first_event_waits_for_it(api: Api) -> None:
    fence = await api.external("ext", begun=False)
    async with streaming(api, "ext") as stream:
        assert [frame.fields for frame in await stream.frames(2)] == [{"retry": "2000"}, {"id": "0"}]
        await api.append("ext", [{"type": "RunStarted"}], fence=fence)
        first = await stream.frame()
        assert first is not None
        assert first.data["type"] == "RunStarted"


@pytest.mark.parametrize(
    ("query", "headers", "first"),
    [
        ("?fromSeq=5", {}, 6),
        ("", {"Last-Event-ID": "7"}, 8),
        ("?fromSeq=2", {"Last-Event-ID": "9"}, 10),
        ("?fromSeq=nonsense", {"Last-Event-ID": "9"}, 10),
        ("?fromSeq=3", {"Last-Event-ID": ""}, 4),
        ("?fromSeq=3&lastEventId=6", {}, 7),
        ("?lastEventId=6", {"Last-Event-ID": "9"}, 10),
        ("?fromSeq=3&lastEventId=", {}, 4),
    ],
)
async def test_a_client_gets_what_comes_after_its_cursor(
    api: Api, query: str, headers: dict[str, str], first: int
) -> None:
    run_id = (await api.start())["runId"]
    await api.ended(run_id)
    async with streaming(api, run_id, query=query, headers=headers) as stream:
        frames = await stream.rest()
    assert frames[1].fields == {"id": str(first - 1)}
    assert [frame.data["seq"] for frame in frames[2:-1]] == list(range(first, 14))


async def test_a_reconnect_at_the_end_of_a_closed_run_is_told_to_stay_away(api: Api) -> None:
    run_id = (await api.start())["runId"]
    await api.ended(run_id)
    for query, headers in (("?fromSeq=13", {}), ("", {"Last-Event-ID": "13"})):
        response = await api.http.get(f"{RUNS}/{run_id}/stream{query}", headers=headers)
        assert (response.status_code, response.content) == (204, b"")


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("nowhere/stream", {}, 404, "run_not_found"),
        ("ext/stream?fromSeq=2", {}, 400, "cursor_past_tail"),
        ("ext/stream", {"Last-Event-ID": "2"}, 400, "cursor_past_tail"),
        ("ext/stream?fromSeq=-1", {}, 400, "invalid_cursor"),
        ("ext/stream?fromSeq=1.0", {}, 400, "invalid_cursor"),
        ("ext/stream?fromSeq=", {}, 400, "invalid_cursor"),
        ("ext/stream", {"Last-Event-ID": "two"}, 400, "invalid_cursor"),
        ("ext/stream?fromSeq=" + "9" * 400, {}, 400, "invalid_cursor"),
        ("bad%20id/stream", {}, 400, "invalid_run_id"),
    ],
)
async def test_a_stream_that_cannot_be_is_refused_before_it_begins(
    api: Api, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    await api.external("ext")
    response = await api.http.get(f"{RUNS}/{path}", headers=headers)
    assert (response.status_code, response.json()["code"]) == (status, code)
    if code == "cursor_past_tail":
        assert response.json()["lastSeq"] == 1


async def test_a_cursor_whose_events_are_gone_names_the_earliest_one_left(api: Api, database: str) -> None:
    run_id = (await api.start())["runId"]
    await api.ended(run_id)
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("DELETE FROM run_events WHERE run_id = $1 AND seq <= 4", run_id)
    finally:
        await connection.close()
    for path in ("stream?fromSeq=2", "events?fromSeq=2"):
        gone = await api.http.get(f"{RUNS}/{run_id}/{path}")
        assert (gone.status_code, gone.json()["code"], gone.json()["earliestSeq"]) == (410, "cursor_expired", 5)


async def test_an_http_1_0_client_gets_the_stream_unframed_and_then_the_end(api: Api, service: Assembly) -> None:
    run_id = (await api.start())["runId"]
    await api.ended(run_id)
    assert service.api_port is not None
    request = f"GET {RUNS}/{run_id}/stream?fromSeq=12 HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()
    answer = await exchanged(service.api_port, request)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200")
    assert b"Transfer-Encoding" not in head
    assert body.startswith(b"retry: 2000\n\nid: 12\n\nid: 13\ndata: {")
    assert body.endswith(b"}\n\n")


async def test_the_chunks_of_an_http_1_1_stream_are_framed_to_the_end(api: Api, service: Assembly) -> None:
    run_id = (await api.start())["runId"]
    await api.ended(run_id)
    assert service.api_port is not None
    request = f"GET {RUNS}/{run_id}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    answer = await exchanged(service.api_port, request)
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            break
        body, rest = body + rest[:length], rest[length + 2 :]
    assert rest == b"\r\n"
    assert body.count(b"\ndata: ") == 14


async def test_a_client_that_leaves_is_noticed(api: Api, admin: httpx.AsyncClient) -> None:
    await api.external("ext")

    async def counted(line: str) -> bool:
        return line in (await admin.get("/metrics")).text.splitlines()

    async with streaming(api, "ext") as stream:
        await stream.frames(3)
        assert await counted("runwire_sse_connections 1.0")
    await eventually(lambda: counted("runwire_sse_connections 0.0"))
    assert await counted('runwire_sse_disconnects_total{reason="client"} 1.0')


async def test_draining_ends_a_stream_so_that_it_goes_on_elsewhere(api: Api, service: Assembly) -> None:
    await api.external("ext")
    streams = service.part(Streams)
    async with streaming(api, "ext") as stream:
        await stream.frames(3)
        drained = asyncio.create_task(streams.drain())
        frames = await stream.rest()
        await drained
    assert 500 <= int(frames[-1].fields["retry"]) <= 2500
    assert "id" not in frames[-1].fields


async def test_a_hundred_clients_of_a_run_see_the_same(api: Api) -> None:
    run_id = (await api.start(input={"delay_ms": 20}))["runId"]

    async def seen() -> list[int]:
        async with streaming(api, run_id) as stream:
            return [
                frame.data["seq"] for frame in await stream.rest() if "data" in frame.fields and "id" in frame.fields
            ]

    everyone = await asyncio.gather(*(seen() for _ in range(100)))
    assert all(seqs == list(range(1, 14)) for seqs in everyone)


async def test_a_connection_whose_stream_is_over_is_let_go_of(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Outlet] = []

    def noted(transport: asyncio.Transport, *, chunked: bool = True) -> Outlet:
        made.append(Outlet(transport.write, lambda: 0, transport.is_closing, chunked, Socket(*socket_of(transport))))
        return made[-1]

    def socket_of(transport: asyncio.Transport) -> tuple[int]:
        return (transport.get_extra_info("socket").fileno(),)

    monkeypatch.setattr(Outlet, "of", noted)
    run_id = (await api.start())["runId"]
    async with streaming(api, run_id) as stream:
        await stream.rest()
    fence = await api.external("ext")
    async with streaming(api, "ext") as stream:
        await stream.frames(3)  # and leaves
    await api.append("ext", [PING], fence=fence)
    await eventually(lambda: len(made) == 2 and not any(outlet.socket for outlet in made))
