"""Content on its way into the store: in a file that has no name, whose errors are not those of the caller."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from content.plane import LARGE, Plane
from pipeline import stages
from runwire.content.spool import INLINE_MAX, Spool
from runwire.errors import ContentUnavailable


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def names_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_the_file_has_no_name_so_nothing_survives_a_kill(folder: Path) -> None:
    async with Spool(at_most=1 << 30) as spool:
        for _ in range(3):
            await spool.write(bytes(INLINE_MAX))
            assert names_in(folder) == []
        file = await spool.content()
        assert not isinstance(file, bytes)
        assert len(file.read()) == spool.size == 3 * INLINE_MAX


async def test_a_file_that_cannot_be_written_is_no_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "missing"))
    async with Spool(at_most=1 << 30) as spool:
        await spool.write(bytes(INLINE_MAX))
        with pytest.raises(ContentUnavailable, match="temporary file"):
            await spool.write(b"more")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "of the caller"), TimeoutError(), ConnectionResetError()])
async def test_an_error_of_the_callers_iterator_is_the_callers(database: str, tmp_path: Path, error: OSError) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield LARGE
        raise error

    async with stages(database) as s:
        plane = Plane(s.database, tmp_path)
        await s.started_run("r")
        with pytest.raises(type(error)) as raised:
            await plane.artifacts.prepare("r", "a", pieces())
        assert raised.value is error
        await plane.check(collected=True)


async def test_what_a_killed_upload_left_beside_its_object_is_deleted_with_it(database: str, tmp_path: Path) -> None:
    async with stages(database) as s:
        plane = Plane(s.database, tmp_path)
        await s.started_run("r")
        await plane.artifacts.prepare("r", "a", LARGE)
        [path] = plane.files()
        (tmp_path / path).rename(f"{tmp_path / path}#1")  # as it is until it is complete
        other = tmp_path / f"{path}0#1"
        other.touch()
        await plane.collector().collect()
        assert plane.files() == {f"{path}0#1"}
