"""`runwire run artifacts`, `artifact`, `parts`, `part`, `result` and `signals` against a real service."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cli.command import ran_beside, started
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


@pytest.fixture
async def with_part(url: str) -> AsyncIterator[Client]:
    """A client, and an external run `r1` with the part `answer`, which is open."""
    async with Client(url) as client:
        run = await client.start("elsewhere", run_id="r1", external=True)
        await client.append(run, [RUN_STARTED])
        async with client.write_part(run, "answer", media_type="text/markdown") as part:
            await part.write("Grüße\r\n")
            yield client
            await part.write("ende")


async def test_parts_are_listed_and_their_bytes_written(capsys: Capsys, with_part: Client) -> None:
    listed = await ran_beside(capsys, "run", "parts", "r1")
    assert (listed.code, "answer" in listed.out, "open" in listed.out) == (0, True, True)
    [part] = json.loads((await ran_beside(capsys, "run", "parts", "r1", "--json")).out)
    assert (part["part"], part["state"], part["size"]) == (1, "open", 9)
    assert json.loads((await ran_beside(capsys, "run", "part", "r1", "1", "--json")).out) == part
    assert (await ran_beside(capsys, "run", "part", "r1", "1")).out == "Grüße\r\n"
    assert (await ran_beside(capsys, "run", "part", "r1", "2")).code == 3
    assert (await ran_beside(capsys, "run", "part", "r1", "2", "--json")).code == 3
    assert (await ran_beside(capsys, "run", "part", "r1", "0")).code == 2
    assert (await ran_beside(capsys, "run", "parts", "nobody")).code == 3


async def test_a_part_is_followed_to_its_end_or_until_it_is_interrupted(url: str) -> None:
    async with Client(url) as client:
        run = await client.start("elsewhere", run_id="r1", external=True)
        await client.append(run, [RUN_STARTED])
        command = ("run", "part", "r1", "1", "--follow")
        async with client.write_part(run, "answer") as part:
            await part.write("first\n")
            async with started(*command, RUNWIRE_URL=url) as stopped:
                assert await stopped.line() == "first\n"
                stopped.process.send_signal(signal.SIGINT)
                ended = await stopped.ended()
            assert (ended.code, "Traceback" in ended.err) == (130, False)
            async with started(*command, RUNWIRE_URL=url) as following:
                assert await following.line() == "first\n"
                await part.write("last\n")
                assert await following.line() == "last\n"
                await part.seal()
                assert (await following.ended()).code == 0


async def test_the_signals_of_a_run_are_shown(capsys: Capsys, with_part: Client) -> None:
    await with_part.signal("r1", "go", data={"by": "\x9b31mAnn"}, signal_id="one")
    shown = await ran_beside(capsys, "run", "signals", "r1")
    assert (shown.code, "\x9b" in shown.out) == (0, False)
    assert "any other name" in shown.out
    assert "go  one" in shown.out
    [told] = (await ran_beside(capsys, "run", "signals", "r1", "--json")).lines
    assert [(one["name"], one["data"]["by"]) for one in told["notTaken"]] == [("go", "\x9b31mAnn")]
    assert (await ran_beside(capsys, "run", "signals", "nobody")).code == 3


@pytest.mark.parametrize("command", [["tail", "--parts"], ["artifacts"], ["result"], ["parts"], ["signals"]])
async def test_a_service_that_is_not_there_is_one_sentence(capsys: Capsys, command: list[str]) -> None:
    missing = await ran_beside(capsys, "run", *command, "r1", "--url", "http://127.0.0.1:9")
    assert (missing.code, missing.out, missing.err.count("\n")) == (4, "", 1), missing.err
