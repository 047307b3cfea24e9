"""Nothing dangles and nothing is left over: collection, races, a store that fails, and content of archived runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from content.plane import LARGE, Plane, append
from pipeline import stages
from runwire.content import NewArtifact
from runwire.errors import ArtifactErased, ContentLost, ContentUnavailable


async def test_bytes_without_an_artifact_are_collected_after_the_grace(database: str, tmp_path: Path) -> None:
    async with stages(database) as s:
        plane = Plane(s.database, tmp_path)
        fence = await s.started_run("gone")
        await plane.stored(s, "gone", "large", LARGE, fence=fence)
        await plane.stored(s, "gone", "small", b"small", fence=fence)
        kept = await s.started_run("kept")
        await plane.stored(s, "kept", "small", b"small", fence=kept)
        await s.database.execute("DELETE FROM runs WHERE run_id = 'gone'")
        assert await plane.collector(grace_s=3600.0).collect() == 0
        await plane.check(collected=False)
        await plane.collector().collect()
        await plane.check(collected=True)
        assert plane.files() == set()
        assert await plane.bytes_of("kept", 1) == b"small"


async def test_an_object_that_is_never_deleted_holds_up_no_other(database: str, tmp_path: Path) -> None:
    async with stages(database) as s:
        plane = Plane(s.database, tmp_path)
        await s.started_run("r")
        await plane.artifacts.prepare("r", "stuck", LARGE)
        [path] = plane.files()
        (tmp_path / path).unlink()
        (tmp_path / path).mkdir()
        (tmp_path / path / "child").touch()
        for n in range(3):
            await plane.artifacts.prepare("r", f"late{n}", LARGE + bytes([n]))
        for _ in range(100):
            await plane.collector().collect()
            if plane.files() == {f"{path}/child"}:
                break
        assert plane.files() == {f"{path}/child"}


async def test_an_upload_that_was_collected_becomes_no_artifact(database: str, tmp_path: Path) -> None:
    async with stages(database) as s:
        plane = Plane(s.database, tmp_path)
        fence = await s.started_run("r")
        late = await plane.artifacts.prepare("r", "late", LARGE)
        assert isinstance(late, NewArtifact)
        await plane.collector().collect()
        with pytest.raises(ContentLost):
            await append(s, "r", late, fence=fence)
        await plane.check(collected=True)
        assert await plane.reader.list("r") == []
        assert (await plane.stored(s, "r", "late", LARGE, fence=fence)).n == 1


async def test_the_same_content_from_many_at_once_is_stored_once(database: str, tmp_path: Path) -> None:
    async with stages(database) as s:
        plane = Plane(s.database, tmp_path)
        fences = {f"r{n}": await s.started_run(f"r{n}") for n in range(8)}
        for data in (LARGE, b"small"):
            await asyncio.gather(*(plane.stored(s, run_id, "a", data, fence=fence) for run_id, fence in fences.items()))
        assert await s.database.fetchval("SELECT count(*) FROM content_blobs") == 2
        await plane.collector().collect()
        await plane.check(collected=True)
        assert [await plane.bytes_of(run_id, 1) for run_id in fences] == [LARGE] * 8


async def test_bytes_that_are_about_to_be_used_are_not_collected(database: str, tmp_path: Path) -> None:
    async with stages(database) as s:
        plane = Plane(s.database, tmp_path)
        first, second = await s.started_run("first"), await s.started_run("second")
        await plane.stored(s, "first", "a", LARGE, fence=first)
        await s.database.execute("DELETE FROM runs WHERE run_id = 'first'")
        # Storing and collecting meet in every order: whichever is first, the artifact has its bytes.
        stored, _ = await asyncio.gather(
            plane.stored(s, "second", "a", LARGE, fence=second), plane.collector(grace_s=0.05).collect()
        )
        assert await plane.bytes_of("second", stored.n) == LARGE
        await plane.check(collected=False)


async def test_other_bytes_than_were_stored_are_never_served(database: str, tmp_path: Path) -> None:
    async with stages(database) as s:
        plane = Plane(s.database, tmp_path)
        fence = await s.started_run("r")
        big = LARGE * 6  # several blocks
        await plane.stored(s, "r", "large", big, fence=fence)
        [path] = plane.files()
        file = tmp_path / path
        for tampered in (big[:-1] + b"!", big[:-1], b""):
            file.write_bytes(tampered)
            with pytest.raises(ContentUnavailable):
                await plane.bytes_of("r", 1)
        file.unlink()
        with pytest.raises(ContentUnavailable):
            await plane.bytes_of("r", 1)
        assert plane.failures("verify") == 1
        assert plane.failures("read") >= 3
        with pytest.raises(ContentUnavailable):
            await plane.store.put("x", b"abc", size=3, sha256=b"?" * 32)
        assert plane.failures("verify") == 2


async def test_erasing_while_it_is_read_ends_the_reading_and_gives_nothing_else(database: str, tmp_path: Path) -> None:
    async with stages(database) as s:
        plane = Plane(s.database, tmp_path)
        fence = await s.started_run("r")
        big = LARGE * 6
        await plane.stored(s, "r", "large", big, fence=fence)
        located = await plane.reader.locate("r", 1)
        blocks = plane.reader.read(located, start=0, stop=len(big))
        seen = await anext(blocks)
        await plane.reader.erase("r", 1)
        with pytest.raises(ContentUnavailable):
            seen += b"".join([block async for block in blocks])
        assert big.startswith(seen)
        with pytest.raises(ArtifactErased):
            await plane.reader.locate("r", 1)
        await plane.check(collected=True)


async def test_erased_bytes_go_when_the_store_is_back(database: str, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    async with stages(database) as s:
        plane = Plane(s.database, folder)
        fence = await s.started_run("r")
        await plane.stored(s, "r", "large", LARGE, fence=fence)
        away = folder.rename(tmp_path / "away")
        folder.write_text("a file is where the folder was")
        await plane.reader.erase("r", 1)
        with pytest.raises(ContentUnavailable):
            await plane.artifacts.prepare("r", "other", LARGE + b"2")
        assert (await plane.stored(s, "r", "small", b"small", fence=fence)).n == 2  # needs no store
        assert plane.failures("put") == 1
        assert await s.database.fetchval("SELECT count(*) FROM content_objects") == 2
        folder.unlink()
        away.rename(folder)
        await plane.collector().collect()
        await plane.check(collected=True)
        assert plane.files() == set()


@asynccontextmanager
async def bucket(answer: bytes | None) -> AsyncIterator[str]:
    """The address of a bucket that answers every request like this; None: never."""
    held: set[asyncio.StreamWriter] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.add(writer)
        try:
            while await reader.read(65536):
                if answer is not None:
                    writer.write(answer)
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in held:
            writer.transport.abort()
        await asyncio.sleep(0)


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 0\r\n\r\n"])
async def test_a_store_that_hangs_or_is_full_is_given_up_in_time(
    database: str, tmp_path: Path, answer: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bucket(answer) as endpoint, stages(database) as s:
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "key",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        plane = Plane(s.database, tmp_path, url="s3://bucket/prefix", patience_s=1.0)
        await s.started_run("r")
        async with asyncio.timeout(20):
            with pytest.raises(ContentUnavailable):
                await plane.artifacts.prepare("r", "large", LARGE)
        assert plane.failures("put") == 1
        await plane.check(collected=False)


async def test_content_ends_with_its_time_and_leaves_tombstones(database: str, tmp_path: Path) -> None:
    async with stages(database) as s:
        plane = Plane(s.database, tmp_path)
        for run_id in ("old", "open"):
            fence = await s.started_run(run_id)
            await plane.stored(s, run_id, "a", LARGE + run_id.encode(), fence=fence)
        await s.database.execute("UPDATE artifacts SET created_at = created_at - interval '9 days'")
        await s.database.execute(
            "UPDATE runs SET state = 'finished', finished_at = now() - interval '8 days' WHERE run_id = 'old'"
        )
        await plane.collector(keep_days=9).collect()
        assert await plane.bytes_of("old", 1) == LARGE + b"old"
        await plane.collector(keep_days=7).collect()
        await plane.collector(keep_days=7).collect()
        with pytest.raises(ArtifactErased):
            await plane.reader.locate("old", 1)
        assert await plane.bytes_of("open", 1) == LARGE + b"open"
        await plane.check(collected=True)


async def test_content_of_archived_runs_moves_to_the_store_and_stays_readable_and_erasable(
    database: str, tmp_path: Path
) -> None:
    async with stages(database) as s:
        plane = Plane(s.database, tmp_path)
        for run_id in ("old", "new"):
            fence = await s.started_run(run_id)
            await plane.stored(s, run_id, "own", run_id.encode(), fence=fence)
            await plane.stored(s, run_id, "shared", b"shared", fence=fence)
        await s.database.execute(
            "INSERT INTO archive_batches (batch_id, run_day, state, path, format, sha256, verified_at, dropped_at)"
            " SELECT 'b', run_day, 'dropped', 'p', 'f', '', now(), now() FROM runs WHERE run_id = 'old'"
        )
        await s.database.execute(
            "INSERT INTO archived_runs VALUES ('old', 'b', 0, '{1}', 3, sha256('x'), 1, 'api')",
        )
        await plane.collector().collect()
        assert len(await plane.objects()) == 1  # the shared bytes are of a run whose log is not archived, too
        assert [await plane.bytes_of("old", n) for n in (1, 2)] == [b"old", b"shared"]
        await plane.check(collected=True)
        await s.database.execute("UPDATE archive_batches SET state = 'verified'")  # restored
        assert await plane.bytes_of("old", 1) == b"old"
        await plane.reader.erase("old", 1)
        assert plane.files() == set()
        await plane.check(collected=True)
