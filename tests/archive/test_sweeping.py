"""Files of attempts that came to nothing: they go, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from archive.history import Archive, all_steps, archive, run_of
from runwire.archive.sweeping import sweep
from runwire.archive.watching import Milestone, Watcher


class _Killed(Exception):  # it stands for a death, not for an error
    pass


class _Dying(Watcher):
    def __init__(self, at: Milestone) -> None:
        self._at = at

    def reached(self, milestone: Milestone, what: str) -> None:  # noqa: ARG002  # the base class has it
        if milestone is self._at:
            raise _Killed


async def dies(here: Archive, at: Milestone) -> None:
    archiver = here.archiver(watcher=_Dying(at))
    with pytest.raises(_Killed):
        await all_steps(archiver)
    await archiver.aclose()


def files(here: Archive) -> set[Path]:
    return {path for path in (here.folder / "events").rglob("*") if path.is_file()}


async def recorded(here: Archive) -> set[Path]:
    """The data and the manifest of each batch."""
    paths = [here.folder / row["path"] for row in await here.database.fetch("SELECT path FROM archive_batches")]
    return {*paths, *(path.with_name(path.name.replace(".jsonl.zst", ".manifest.json")) for path in paths)}


async def test_an_archiver_that_dies_once_its_batch_is_recorded_leaves_no_file_for_good(
    database: str, tmp_path: Path
) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "r")
        await dies(here, Milestone.MANIFEST_STORED)
        await dies(here, Milestone.WRITTEN)  # before it could delete the files of the attempt before
        assert len(files(here)) == 4
        await here.run()
        assert files(here) == await recorded(here)


async def test_what_a_loser_stores_after_the_end_goes_on_the_next_round(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "r")
        await here.run()
        kept = await recorded(here)
        data = here.data_file()
        batch_id = data.name.partition(".")[0]
        for end in ("jsonl.zst", "manifest.json"):
            data.with_name(f"{batch_id}.00c0ffee.{end}").write_bytes(b"of an archiver that lost its lock, and died")
        assert await sweep(here.archiver().ledger, here.store) == 2
        assert files(here) == kept
        assert await sweep(here.archiver().ledger, here.store) == 0


async def test_files_of_batches_that_the_ledger_does_not_know_stay(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "r")
        await here.run()
        stranger = here.data_file().with_name("0192f0a0-0000-7000-8000-000000000000.00c0ffee.jsonl.zst")
        stranger.write_bytes(b"of a database that this one is a restored copy of")
        await here.run()
        assert files(here) == {stranger} | await recorded(here)


async def test_the_files_of_a_batch_that_is_still_written_stay(database: str, tmp_path: Path) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "first")
        await here.run()
        await run_of(here.database, "second")
        # As if days had gone by: nobody finishes in the past.
        await here.database.execute("UPDATE archive_progress SET archived_all = '-infinity'")
        await dies(here, Milestone.MANIFEST_STORED)
        before = files(here)
        assert await sweep(here.archiver().ledger, here.store) == 0
        assert files(here) == before
