"""`runwire run artifacts`, `artifact` and `result` against a real service."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cli.command import ran_beside
from runwire.client import Client
from runwire.model.event import RUN_STARTED

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
async def stored(url: str) -> str:
    """A run with two artifacts, one of which is its result."""
    async with Client(url) as client:
        run = await client.start("elsewhere", run_id="r1", external=True)
        await client.append(run, [RUN_STARTED])
        await client.store_artifact(run, "report.txt", b"the report", media_type="text/plain")
        await client.store_artifact(run, "result", b'{"answer":42}', media_type="application/json")
    return run.run_id


async def test_artifacts_are_listed_written_and_printed(capsys: Capsys, stored: str, tmp_path: Path) -> None:
    listed = await ran_beside(capsys, "run", "artifacts", stored)
    assert listed.code == 0
    assert "report.txt" in listed.out
    as_json = await ran_beside(capsys, "run", "artifacts", stored, "--name", "report.txt", "--json")
    assert [(one["n"], one["size"]) for one in json.loads(as_json.out)] == [(1, 10)]
    file = tmp_path / "out.txt"
    assert (await ran_beside(capsys, "run", "artifact", stored, "1", "-o", str(file))).code == 0
    assert file.read_bytes() == b"the report"
    assert (await ran_beside(capsys, "run", "artifact", stored, "1", "--json")).lines[0]["name"] == "report.txt"
    assert (await ran_beside(capsys, "run", "result", stored, "--json")).lines == [{"answer": 42}]
    assert json.loads((await ran_beside(capsys, "run", "result", stored)).out) == {"answer": 42}


async def test_what_is_not_there_or_cannot_be_written_is_one_sentence(
    capsys: Capsys, stored: str, url: str, tmp_path: Path
) -> None:
    missing = await ran_beside(capsys, "run", "artifact", stored, "9", "-o", str(tmp_path / "x"))
    assert (missing.code, missing.err.count("\n")) == (3, 1)
    assert os.listdir(tmp_path) == []  # noqa: PTH208  # nothing is left behind
    assert (await ran_beside(capsys, "run", "artifact", stored, "1", "-o", str(tmp_path / "no" / "x"))).code == 2
    async with Client(url) as client:
        await client.erase_artifact(stored, 1)
        await client.erase_artifact(stored, 1)
    assert (await ran_beside(capsys, "run", "artifact", stored, "1", "-o", str(tmp_path / "x"))).code == 3
    assert (await ran_beside(capsys, "run", "result", "nobody")).code == 3
