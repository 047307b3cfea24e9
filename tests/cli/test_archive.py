"""`runwire archive`, on a database and a folder of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from archive.history import Archive, day, hot, run_of
from cli.command import Result, ran_beside
from runwire.db import Database

Capture = pytest.CaptureFixture[str]


@pytest.fixture
async def here(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Archive]:
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("RUNWIRE_ARCHIVE_URL", str(tmp_path / "archive"))
    async with Database(database) as connected:
        yield Archive(connected, tmp_path / "archive")


async def archived(capsys: Capture, *args: str) -> Result:
    return await ran_beside(capsys, "archive", *args)


async def test_archive_verify_list_and_restore_tell_what_they_did(capsys: Capture, here: Archive) -> None:
    log = await run_of(here.database, "old")
    await run_of(here.database, "young", days_ago=3)
    dry = await archived(capsys, "run", "--dry-run", "--json")
    assert (dry.code, dry.lines) == (0, [{"runDay": f"{day(40)}", "runs": 1, "events": 13}])
    assert not here.folder.exists()

    done = await archived(capsys, "run", "--json")
    assert done.code == 0
    assert [(line["did"], line["runs"]) for line in done.lines] == [("wrote", 1), ("verified", 1), ("dropped", 1)]
    assert await hot(here.database, "old") == []

    [[batch]] = (await archived(capsys, "list", "--json")).lines
    assert (batch["state"], batch["runs"], batch["events"]) == ("dropped", 1, 13)
    [proof] = (await archived(capsys, "verify", "--json")).lines
    assert (proof["ok"], proof["runs"], proof["hotRuns"]) == (True, 1, 0)

    would = await archived(capsys, "restore", "--run", "old", "--dry-run", "--json")
    assert would.lines == [{"restored": "old", "runs": 1, "events": 13, "dryRun": True}]
    assert await hot(here.database, "old") == []
    assert (await archived(capsys, "restore", "--day", f"{day(40)}", "--json")).code == 0
    assert await hot(here.database, "old") == log
    [proof] = (await archived(capsys, "verify", batch["batchId"], "--json")).lines
    assert proof["hotRuns"] == 1
    again = await archived(capsys, "run")
    assert (again.code, again.err) == (0, "nothing is due\n")


async def test_people_get_sentences(capsys: Capture, here: Archive) -> None:
    await run_of(here.database, "old")
    done = await archived(capsys, "run")
    assert "verified  " in done.err
    assert "1 runs, 13 events" in done.err
    assert "dropped" in (await archived(capsys, "list")).out
    assert "1 runs, 13 events" in (await archived(capsys, "verify")).err


async def test_a_flipped_bit_fails_the_verification(capsys: Capture, here: Archive) -> None:
    await run_of(here.database, "old")
    await archived(capsys, "run")
    data = bytearray(here.data_file().read_bytes())
    data[30] ^= 1
    here.data_file().write_bytes(data)
    failed = await archived(capsys, "verify")
    assert failed.code == 1
    assert "FAILED" in failed.err
    here.data_file().unlink()
    gone = await archived(capsys, "verify", "--json")
    assert (gone.code, gone.lines[0]["ok"]) == (1, False)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("restore",), 2, "nothing to restore"),
        (("restore", "--run", "nobody"), 3, "no run 'nobody'"),
        (("restore", "--day", "yesterday"), 2, "must be a date"),
        (("verify", "--day", "2020-01-01"), 2, "no batch"),
        (("run", "--archive", "bogus://x/y"), 2, "RUNWIRE_ARCHIVE_URL"),
    ],
)
async def test_what_cannot_be_is_said_in_a_sentence(
    capsys: Capture, here: Archive, args: tuple[str, ...], code: int, says: str
) -> None:
    failed = await archived(capsys, *args)
    assert failed.code == code
    assert says in failed.err
    assert len(failed.err.splitlines()) == 1


async def test_an_archive_that_cannot_be_reached_is_exit_code_4(capsys: Capture, here: Archive) -> None:
    await run_of(here.database, "old")
    here.folder.write_text("not a folder")
    failed = await archived(capsys, "run")
    assert failed.code == 4
    assert "folder cannot be made" in failed.err


async def test_where_archiving_is_off_nothing_is_archived_by_accident(
    capsys: Capture, here: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await run_of(here.database, "old")
    monkeypatch.setenv("RUNWIRE_ARCHIVE_AFTER_DAYS", "0")
    failed = await archived(capsys, "run")
    assert (failed.code, "RUNWIRE_ARCHIVE_AFTER_DAYS is 0" in failed.err) == (2, True)
    assert await hot(here.database, "old") == log


async def test_with_a_database_of_ones_own_the_archive_has_to_be_named(
    capsys: Capture, here: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUNWIRE_ARCHIVE_URL")
    failed = await archived(capsys, "run")
    assert (failed.code, failed.err.startswith("runwire: RUNWIRE_ARCHIVE_URL must be set")) == (2, True)
