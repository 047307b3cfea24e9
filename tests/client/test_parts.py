"""Parts through the client: written once and read once, whatever the server and the connections do."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from client.crooked import Answer, Crooked, crooked_server, hangs_up, plain, problem, stream
from crash.fleet import fleet_of
from runwire.assembly import Assembly
from runwire.client import Client, PartPiece, PartStream, StartedRun
from runwire.errors import ArtifactErased, FenceStale, PartErased, PartMoved, PartNotFound, PartRefused
from runwire.model.event import RUN_FINISHED, RUN_STARTED
from runwire.model.part_offset import offset_text
from runwire.model.run import RunState
from runwire.settings import Settings
from waiting import eventually

ODD = " begins with a blank\r\n\r\n  Grüße \N{ROCKET}\rdata: x\n\nevent: control\n"
"""Text that server-sent events do not carry as it is."""
PARTS = "/api/agents/runs/r1/parts"
RUN = StartedRun("r1", fence=4)


@asynccontextmanager
async def service(database: str) -> AsyncIterator[Client]:
    """A client of a whole service in this process."""
    settings: dict[str, Any] = {"database_url": database, "bus": "memory", "port": 0, "admin_port": 0, "drain_s": 1.0}
    async with Assembly(Settings(**settings)) as assembled, Client(assembled.url, retry_s=20) as client:
        yield client


async def external(client: Client) -> StartedRun:
    run = await client.start("elsewhere", external=True, lease_seconds=600)
    await client.append(run, [RUN_STARTED], if_seq=0)
    return run


async def finish(client: Client, run: StartedRun) -> None:
    seq = (await client.run(run)).last_seq
    await client.append(run, [RUN_FINISHED], if_seq=seq, outcome=RunState.FINISHED)


async def test_a_part_is_written_once_and_read_once_while_its_server_is_killed_again_and_again(
    database: str, tmp_path: Path
) -> None:
    lines = [f"{n}: {ODD}" for n in range(300)]
    written = 0
    async with fleet_of(["api+publisher"], database=database, logs=tmp_path) as fleet:
        (server,) = fleet.members
        async with Client(server.url, retry_s=60) as client:
            run = await external(client)

            async def write() -> None:
                nonlocal written
                async with client.write_part(run, "answer", media_type="text/markdown") as part:
                    for line in lines:
                        await part.write(line)
                        written += 1

            async def read() -> bytes:
                await eventually(lambda: written > 0, within_s=60)
                return await client.part(run, 1)

            async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
                tasks.create_task(write())
                reading = tasks.create_task(read())
                for at in (20, 70):
                    await eventually(lambda at=at: written > at, within_s=60)  # type: ignore[misc]
                    server.kill()
                    await server.start()
            assert reading.result().decode() == "".join(lines)
            assert (await client.artifact(run, 1)).decode() == "".join(lines)


async def test_text_comes_as_it_was_written_whatever_its_line_ends(database: str) -> None:
    async with service(database) as client:
        run = await external(client)
        async with client.write_part(run, "answer", media_type="text/markdown") as part:
            for start in range(0, len(ODD), 3):
                await part.write(ODD[start : start + 3])
            assert (await client.part(run, part.n, live=False)).decode() == ODD
            assert part.size == len(ODD.encode())
        assert (await client.part(run, 1)).decode() == ODD
        [info] = await client.parts(run)
        assert (info.name, info.state, info.size, info.attempt) == ("answer", "sealed", part.size, 1)


async def test_a_part_is_read_on_from_an_offset_while_it_is_written(database: str) -> None:
    async with service(database) as client:
        run = await external(client)
        async with client.write_part(run, "answer") as part:
            await part.write("Hello ")
            first = client.part(run, 1)
            async with first:
                assert (await anext(first)).data == b"Hello "
            rest = client.part(run, 1, offset=first.offset)
            new = client.part(run, 1, offset="now")
            reading = [asyncio.ensure_future(anext(one)) for one in (rest, new)]
            await eventually(lambda: new.connections, within_s=20)
            await part.write("world")
            pieces = await asyncio.wait_for(asyncio.gather(*reading), 20)
            assert [(piece.offset, piece.data) for piece in pieces] == [(6, b"world")] * 2
        for one in (rest, new):
            assert [piece async for piece in one] == []
            assert one.state == "sealed"


async def test_a_part_that_is_begun_again_is_told_so(database: str) -> None:
    async with service(database) as client:
        run = await external(client)
        reader = client.part(run, 1)
        seen: list[PartPiece] = []

        async def fail() -> None:
            async with client.write_part(run, "answer") as part:
                await part.write("half an ans")
                seen.append(await asyncio.wait_for(anext(reader), 20))
                raise RuntimeError("the model failed")

        with pytest.raises(RuntimeError, match="the model failed"):
            await fail()
        assert [one.state for one in await client.parts(run)] == ["abandoned"]
        async with client.write_part(run, "answer") as part:
            assert (part.n, part.attempt) == (1, 2)
            await part.write("whole")
            while b"".join(piece.data for piece in seen) != b"half an answhole":
                seen.append(await asyncio.wait_for(anext(reader), 20))
        assert [(piece.attempt, piece.offset, piece.data, piece.reset) for piece in seen] == [
            (1, 0, b"half an ans", False),
            (2, 0, b"", True),
            (2, 0, b"whole", False),
        ]
        assert [piece async for piece in reader] == []
        stale = client.part(run, 1, offset=offset_text(1, 4))
        assert await asyncio.wait_for(stale, 20) == b"whole"


async def test_an_abandoned_part_ends_with_its_run(database: str) -> None:
    async with service(database) as client:
        run = await external(client)
        part = client.write_part(run, "answer")
        await part.open()
        await part.write("half")
        for _ in range(2):
            await part.abandon()
        with pytest.raises(PartRefused):
            await part.write("more")
        reader = client.part(run, 1)
        assert (await asyncio.wait_for(anext(reader), 20)).data == b"half"
        await finish(client, run)
        assert [piece async for piece in reader] == []
        assert (reader.state, reader.offset) == ("abandoned", offset_text(1, 4))


async def test_a_part_is_erased_once_it_has_ended(database: str) -> None:
    async with service(database) as client:
        run = await external(client)
        part = client.write_part(run, "answer")
        await part.open()
        await part.write("half")
        with pytest.raises(PartRefused):
            await client.erase_part(run, 1)
        await part.abandon()
        for _ in range(2):
            await client.erase_part(run, 1)
        with pytest.raises(PartErased):
            await client.part(run, 1)


async def test_what_is_not_there_or_not_ones_own_is_refused_by_type(database: str) -> None:
    async with service(database) as client:
        run = await external(client)
        with pytest.raises(PartNotFound):
            await client.part(run, 1)
        with pytest.raises(FenceStale):
            await client.write_part(run, "answer", fence=1).open()
        with pytest.raises(RuntimeError, match="not open"):
            await client.write_part(run, "answer").write("x")
        async with client.write_part(run, "answer") as part:
            with pytest.raises(PartRefused) as refused:
                await client.write_part(run, "answer").open()
            assert (refused.value.code, refused.value.n, refused.value.attempt) == ("part_open", 1, 1)
            await part.write("x")
        with pytest.raises(PartRefused):
            await part.abandon()
        await client.erase_artifact(run, 1)
        with pytest.raises(ArtifactErased):
            await client.part(run, 1)


async def test_a_write_may_be_larger_than_a_request(database: str) -> None:
    async with service(database) as client:
        run = await external(client)
        large = "0123456789" * 60_000
        async with client.write_part(run, "answer") as part:
            await part.write(large)
        assert (await client.part(run, 1)).decode() == large


# ------------------------------------------------------------------ lost answers


@pytest.fixture
async def server() -> AsyncIterator[Crooked]:
    async with crooked_server() as server:
        yield server


@pytest.fixture
async def client(server: Crooked) -> AsyncIterator[Client]:
    async with Client(server.url, retry_s=5) as client:
        yield client


def json(value: Any, *, status: int = 200) -> Answer:
    return plain(status, msgspec.json.encode(value))


def info(**changed: Any) -> dict[str, Any]:
    return {
        "part": 1, "name": "answer", "mediaType": "text/plain", "attempt": 1, "state": "open", "size": 0, **changed,
    }  # fmt: skip


async def test_answers_that_are_lost_are_settled_by_what_the_next_one_says(server: Crooked, client: Client) -> None:
    server.will(PARTS, hangs_up(), problem(409, "part_open", runId="r1", part=3, attempt=2))
    server.will(
        f"{PARTS}/3",
        hangs_up(),
        problem(409, "part_offset_conflict", runId="r1", part=3, size=5),
        problem(429, "part_rate_exceeded", runId="r1", part=3, headers={"Retry-After": "0"}),
        plain(204),
        hangs_up(),
        plain(204),
    )
    async with client.write_part(RUN, "answer") as part:
        assert (part.n, part.attempt) == (3, 2)
        await part.write("Hello")
        await part.write(b" again")
    assert part.size == 11
    writes = [body for method, path, _, body in server.seen if (method, path) == ("POST", f"{PARTS}/3")]
    assert writes == [b"Hello", b"Hello", b" again", b" again", b"", b""]
    assert {headers["Runwire-Fence"] for _, _, headers, _ in server.seen} == {"4"}


async def test_a_part_that_somebody_else_wrote_to_is_a_conflict(server: Crooked, client: Client) -> None:
    moved = problem(409, "part_offset_conflict", runId="r1", part=1, size=5)
    server.will(PARTS, problem(409, "part_open", runId="r1", part=1, attempt=1), json(info(), status=201))
    server.will(f"{PARTS}/1", moved, hangs_up(), moved)
    part = client.write_part(RUN, "answer")
    with pytest.raises(PartRefused):
        await part.open()
    await part.open()
    for data in ("Hello", "Hello again"):
        with pytest.raises(PartMoved):
            await part.write(data)


def frames(data: bytes, end: int, *, closed: bool = False, attempt: int = 1) -> bytes:
    control = {"streamNextOffset": offset_text(attempt, end), "upToDate": True, "streamClosed": closed}
    said = b"event: data\ndata: " + base64.b64encode(data) + b"\n\n" if data else b""
    return said + b"event: control\ndata: " + msgspec.json.encode(control) + b"\n\n"


def part_stream(*chunks: bytes, then: str = "close") -> Answer:
    return stream(*chunks, then=then, encoding="base64")


async def test_a_connection_lost_amid_a_piece_goes_on_at_its_first_byte(server: Crooked, client: Client) -> None:
    piece = frames(b"two ", 8)
    server.will(
        f"{PARTS}/1",
        part_stream(frames(b"one ", 4), piece[: len(piece) - 3], then="abort"),
        hangs_up(),
        part_stream(piece, frames(b"three", 13, closed=True)),
    )
    server.will(PARTS, json({"parts": [info(state="sealed", size=13)]}))
    reader = client.part("r1", 1)
    assert await pieces_of(reader) == [(1, 0, b"one "), (1, 4, b"two "), (1, 8, b"three")]
    assert (reader.state, reader.connections) == ("sealed", 2)


async def pieces_of(reader: PartStream) -> list[tuple[int, int, bytes]]:
    async with asyncio.timeout(20):
        pieces: list[PartPiece] = [piece async for piece in reader]
    return [(piece.attempt, piece.offset, piece.data) for piece in pieces]
