"""The event log and all that tells of it stay free of payload: a canary in content is found in none of it.

Each kind of content has a row in `PLANTED`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from archive.history import Archive
from cli.command import ran_beside
from runwire import END, Agent, Context, NodeFailed, Wait
from runwire.archive.format import zstd
from runwire.assembly import Assembly
from runwire.content.spool import INLINE_MAX
from runwire.db import Database
from runwire.settings import Settings
from server.calls import RUNS, Api
from waiting import eventually

CANARY = "canary-Zeisig-4711"
JSON = {"Content-Type": "application/json"}


@dataclass
class Sung:
    text: str = ""


singer = Agent("singer", start="Sing", state=Sung)


@singer.node(to="Again")
async def sing(ctx: Context, state: Sung) -> None:
    state.text += CANARY
    await ctx.artifact("small.txt", CANARY, media_type="text/plain")
    await ctx.artifact("large.txt", CANARY * (INLINE_MAX // len(CANARY) + 1), media_type="text/plain")
    async with ctx.part("song", media_type="text/plain") as part:
        await part.write(CANARY)
    ctx.result({"said": CANARY})


@singer.node(to=END, retries=1)
async def again(ctx: Context, _state: Sung) -> None:
    ctx.result([CANARY])
    if ctx.attempt == 1:
        raise NodeFailed("no_luck", CANARY)


@dataclass(frozen=True)
class Verdict:
    """The data of a signal: a comment, and nothing else fits."""

    comment: str


listener = Agent("listener", start="Ask", state=Sung)


@listener.node(waits=Wait(any_of=("approved", "rejected"), then="Answer", schema=Verdict))
async def ask(ctx: Context, _state: Sung) -> None:
    async with ctx.part("question") as part:
        await part.write(f"{CANARY}?")


@listener.node(to=END, retries=1)
async def answer(ctx: Context, state: Sung) -> None:
    assert ctx.signal is not None
    assert isinstance(ctx.signal.data, Verdict)
    state.text = ctx.signal.data.comment
    async with ctx.part("answer") as part:
        await part.write(state.text)
        if ctx.attempt == 1:
            raise ValueError(state.text)
    ctx.result(state.text)


@dataclass
class Planting:
    """The means of planting the canary: the service, an external run, and the ids of all runs."""

    api: Api
    fence: int
    run_ids: list[str] = field(default_factory=lambda: ["ext"])

    def headers(self, **more: str) -> dict[str, str]:
        return {"Runwire-Fence": str(self.fence), **more}


async def an_agents_input_state_artifacts_and_result(at: Planting) -> None:
    run_id = (await at.api.start(agent="singer", input={"text": CANARY}))["runId"]
    assert (await at.api.ended(run_id))["outcome"] == "finished"
    assert CANARY in (await at.api.http.get(f"{RUNS}/{run_id}/result")).text
    assert CANARY in (await at.api.http.get(f"{RUNS}/{run_id}/state")).text
    at.run_ids.append(run_id)


async def an_artifact_from_outside(at: Planting) -> None:
    url = f"{RUNS}/ext/artifacts"
    for data in (CANARY, CANARY * (INLINE_MAX // len(CANARY) + 1)):
        stored = await at.api.http.post(url, params={"name": "note"}, content=data, headers=at.headers())
        assert stored.status_code == 201
    assert CANARY in (await at.api.http.get(f"{url}/1")).text


async def an_artifact_that_is_refused(at: Planting) -> None:
    url = f"{RUNS}/ext/artifacts"
    for name, headers in (
        ("note", {"Runwire-Fence": "7"}),
        ("a b", at.headers()),
        ("note", at.headers(**{"Content-Type": "nonsense"})),
        ("note", at.headers(**{"Content-Encoding": "gzip"})),
    ):
        refused = await at.api.http.post(url, params={"name": name}, content=CANARY, headers=headers)
        assert refused.status_code in (400, 409, 415)
        assert CANARY not in refused.text
    too_large = await at.api.http.post(url, params={"name": "x"}, content=CANARY * 200_000, headers=at.headers())
    assert (too_large.status_code, CANARY in too_large.text) == (413, False)


async def an_artifact_that_is_erased(at: Planting) -> None:
    url = f"{RUNS}/ext/artifacts"
    stored = await at.api.http.post(url, params={"name": "gone"}, content=f"{CANARY}!", headers=at.headers())
    await at.api.http.delete(f"{url}/{stored.json()['n']}")
    gone = await at.api.http.get(f"{url}/{stored.json()['n']}")
    assert (gone.status_code, CANARY in gone.text) == (410, False)


async def a_part_from_outside(at: Planting) -> None:
    await at.api.open_part("ext", fence=at.fence)
    for close in (False, True):
        assert (await at.api.write_part("ext", CANARY, fence=at.fence, close=close)).status_code == 204
    refused = await at.api.write_part("ext", CANARY, fence=at.fence)
    assert (refused.status_code, CANARY in refused.text) == (409, False)


async def a_signal_to_an_agent(at: Planting) -> None:
    run_id = (await at.api.start(agent="listener"))["runId"]
    at.run_ids.append(run_id)
    url = f"{RUNS}/{run_id}/signal"
    for body, status in (
        ({"name": "approved", "data": [CANARY]}, 422),
        ({"name": "approved", "data": {CANARY: 1}}, 422),
        ({"name": "approved", "data": {"comment": CANARY * 10_000}}, 413),
        ({"name": "unheard_of", "data": {"comment": CANARY}}, 409),
        ({"name": "approved", "data": {"comment": CANARY}, "id": "one"}, 202),
    ):
        answered = await at.api.http.post(url, json=body)
        assert (answered.status_code, CANARY in answered.text) == (status, False), answered.text
    broken = await at.api.http.post(url, content=f'{{"name": "approved", "data": {CANARY}', headers=JSON)
    assert (broken.status_code, CANARY in broken.text) == (400, False)
    assert (await at.api.ended(run_id))["outcome"] == "finished"
    assert CANARY in (await at.api.http.get(f"{RUNS}/{run_id}/result")).text


async def a_signal_to_an_external_run(at: Planting) -> None:
    url = f"{RUNS}/ext/signal"
    for data, status in (({"say": CANARY}, 202), ({"say": CANARY}, 202), ({"say": f"other {CANARY}"}, 409)):
        answered = await at.api.http.post(url, json={"name": "hear", "data": data, "id": "s"})
        assert (answered.status_code, CANARY in answered.text) == (status, False), answered.text
    heard = await at.api.append("ext", [], fence=at.fence)
    assert heard.json()["signals"][0]["data"] == {"say": CANARY}
    refused = await at.api.append("ext", [{"type": "DebugTrace", "fn": "a b"}], fence=at.fence)
    assert (refused.status_code >= 400, CANARY in refused.text) == (True, False)


async def a_part_that_is_written_wrongly(at: Planting) -> None:
    """Each refusal, of bytes that are on their way."""
    await at.api.open_part("ext", fence=at.fence, name="wrong")
    url = f"{RUNS}/ext/parts/2"
    for query, headers in (
        ("", {"Runwire-Fence": "7"}),
        ("?offset=0000000001_00000000000000000009", at.headers()),
        ("?offset=0000000002_00000000000000000000", at.headers()),
        (f"?offset={CANARY}", at.headers()),
        ("", at.headers(**{"Content-Encoding": "gzip"})),
    ):
        refused = await at.api.http.post(url + query, content=CANARY, headers=headers)
        assert (refused.status_code >= 400, CANARY in refused.text) == (True, False), refused.text
    too_large = await at.api.http.post(url, content=CANARY * 1_200_000, headers=at.headers())
    assert (too_large.status_code, CANARY in too_large.text) == (413, False)


PLANTED: list[Callable[[Planting], Awaitable[None]]] = [
    an_agents_input_state_artifacts_and_result,
    an_artifact_from_outside,
    an_artifact_that_is_refused,
    an_artifact_that_is_erased,
    a_part_from_outside,
    a_part_that_is_written_wrongly,
    a_signal_to_an_agent,
    a_signal_to_an_external_run,
]


@asynccontextmanager
async def spans() -> AsyncIterator[tuple[str, bytearray]]:
    """The address of a collector, and everything that was sent to it."""
    seen = bytearray()
    writers: set[asyncio.StreamWriter] = set()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                (length,) = [
                    int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
                ]
                seen.extend(head + await reader.readexactly(length))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except (EOFError, OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(take, "127.0.0.1", 0, limit=1 << 24)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def archived(database: str, folder: Path) -> str:
    """Everything that archiving the runs writes, unpacked."""
    async with Database(database) as connected:
        await connected.fetchval("SELECT make_event_partition((now() AT TIME ZONE 'UTC')::date - 40)")
        await connected.execute("UPDATE run_events SET run_day = run_day - 40")
        await connected.execute(
            "UPDATE runs SET run_day = run_day - 40, finished_at = finished_at - interval '40 days'"
            " WHERE finished_at IS NOT NULL"
        )
        await connected.execute("DELETE FROM run_outbox")
        await Archive(connected, folder).run()
    files = [path for path in folder.rglob("*") if path.is_file()]  # noqa: ASYNC240
    data = [path.read_bytes() for path in files]
    unpacked = [zstd().decompress(one) for one in data if one[:4] == b"\x28\xb5\x2f\xfd"]
    assert unpacked, "nothing was archived"
    return "".join(map(repr, (*data, *unpacked)))


async def test_a_canary_in_content_is_found_nowhere_that_tells_of_the_log(
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    found: dict[str, Any] = {}
    async with spans() as (collector, sent):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        settings = Settings(
            database_url=database,
            bus="memory",
            port=0,
            admin_port=0,
            drain_s=2.0,
            agents=("content.test_payload_free:singer", "content.test_payload_free:listener"),
            content_url=str(tmp_path / "content"),
            artifact_max_bytes=2 * 1024 * 1024,
            trace_sample_ratio=1.0,
            log_level="debug",
        )
        with capture_logs() as lines:
            async with (
                Assembly(settings) as service,
                httpx.AsyncClient(base_url=service.url, timeout=20) as http,
                httpx.AsyncClient(base_url=service.admin_url) as admin,
            ):
                api = Api(http)
                at = Planting(api, await api.external("ext"))
                for plant in PLANTED:
                    await plant(at)
                await api.finish("ext", fence=at.fence)
                for run_id in at.run_ids:
                    for route in ("", "/events?limit=1000", "/stream", "/diagnosis"):
                        found[f"{run_id}{route}"] = (await http.get(f"{RUNS}/{run_id}{route}")).text
                found["list"] = (await http.get(RUNS)).text
                for accept in ("", "application/openmetrics-text;version=1.0.0"):
                    found[f"metrics {accept}"] = (await admin.get("/metrics", headers={"Accept": accept})).text
                monkeypatch.setenv("RUNWIRE_DATABASE_URL", database)
                doctor = await ran_beside(capsys, "doctor", "--json")
                found["doctor"] = doctor.out + doctor.err
                await eventually(lambda: b"invoke_node" in sent, within_s=20)
        found["log lines"] = [*lines]
        clients = ("httpx", "httpcore")  # of this test, which name the addresses that they ask for
        found["lines of libraries"] = [
            record.getMessage() for record in caplog.records if not record.name.startswith(clients)
        ]
        found["spans"] = bytes(sent)
    async with Database(database) as connected:
        found["run_events"] = [tuple(row) for row in await connected.fetch("SELECT * FROM run_events")]
    found["archive"] = await archived(database, tmp_path / "archive")
    assert len(found["log lines"]) > 20
    assert any("artifact:large.txt:2" in str(row) for row in found["run_events"])
    canaries = (CANARY, CANARY.encode().hex(), json.dumps(CANARY)[1:-1])
    leaks = [where for where, text in found.items() if any(canary in str(text) for canary in canaries)]
    assert leaks == [], ", ".join(leaks)
