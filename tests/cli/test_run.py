"""`runwire run` against a real service."""

from __future__ import annotations

import asyncio
import io
import json
import os
from pathlib import Path

import pytest

from cli.command import ran_beside, started
from runwire.client import Client
from runwire.model.event import RUN_STARTED
from waiting import eventually

pytestmark = pytest.mark.usefixtures("url")
Capsys = pytest.CaptureFixture[str]


async def test_start_prints_the_id_and_nothing_else(capsys: Capsys) -> None:
    result = await ran_beside(capsys, "run", "start", "--id", "r1")
    assert (result.code, result.out, result.err) == (0, "r1\n", "")


async def test_a_start_repeated_with_its_key_is_the_same_run(capsys: Capsys) -> None:
    first = await ran_beside(capsys, "run", "start", "--idempotency-key", "order-7", "--json")
    again = await ran_beside(capsys, "run", "start", "--idempotency-key", "order-7", "--json")
    assert first.lines[0]["runId"] == again.lines[0]["runId"]


async def test_start_and_follow_shows_each_node_with_its_time(capsys: Capsys) -> None:
    result = await ran_beside(capsys, "run", "start", "golden", "--follow")
    assert result.code == 0
    shown = [line.split()[2] for line in result.out.splitlines()[:-1]]
    assert shown == ["run", "EnsureDevice", "Warmup", "OpenApp", "Ping", "Teardown", "run"]
    assert "ensureDevice.check" in result.out
    assert result.out.splitlines()[-1].startswith("finished")


async def test_a_followed_run_that_fails_is_exit_code_1(capsys: Capsys) -> None:
    result = await ran_beside(capsys, "run", "start", "explore", "--input", '{"site": "ftp://x"}', "--follow")
    assert result.code == 1
    assert "error:bad_url:ensureDevice" in result.out
    assert "failed" in result.out


async def test_input_comes_from_a_file_or_from_stdin(
    capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "input.json"
    given.write_text('{"delay_ms": 1}')
    monkeypatch.setattr("sys.stdin", io.StringIO('{"delay_ms": 2}'))
    for source in (f"@{given}", "@-"):
        assert (await ran_beside(capsys, "run", "start", "golden", "--input", source)).code == 0


async def test_tail_gives_every_event_once_as_json(capsys: Capsys) -> None:
    await ran_beside(capsys, "run", "start", "--id", "r1")
    result = await ran_beside(capsys, "run", "tail", "r1", "--json")
    assert (result.code, [event["seq"] for event in result.lines]) == (0, list(range(1, 14)))
    rest = await ran_beside(capsys, "run", "tail", "r1", "--json", "--from-seq", "11")
    assert [event["seq"] for event in rest.lines] == [12, 13]


async def test_replay_gives_the_same_events_by_another_source(capsys: Capsys) -> None:
    await ran_beside(capsys, "run", "start", "--id", "r1", "--follow")
    tail = await ran_beside(capsys, "run", "tail", "r1", "--json")
    replay = await ran_beside(capsys, "run", "replay", "r1", "--speed", "max", "--json")
    assert (replay.code, replay.out) == (0, tail.out.replace('"outbox"', '"replayer"'))
    rest = await ran_beside(capsys, "run", "replay", "r1", "--speed", "1000", "--json", "--from-seq", "11")
    assert [event["seq"] for event in rest.lines] == [12, 13]
    for speed in ("fast", "0", "1001"):
        assert (await ran_beside(capsys, "run", "replay", "r1", "--speed", speed)).code == 2


async def test_tail_of_a_closed_run_at_its_end_says_how_it_ended(capsys: Capsys) -> None:
    await ran_beside(capsys, "run", "start", "--id", "r1", "--follow")
    result = await ran_beside(capsys, "run", "tail", "r1", "--from-seq", "13")
    assert (result.code, result.out) == (0, "finished  r1  13 events\n")


async def test_show_and_list_tell_of_a_run(capsys: Capsys) -> None:
    await ran_beside(capsys, "run", "start", "--id", "r1", "--follow")
    shown = await ran_beside(capsys, "run", "show", "r1")
    assert "finished" in shown.out
    assert "13 in the log, 13 published" in shown.out
    assert "took" in shown.out
    assert (await ran_beside(capsys, "run", "show", "r1", "--json")).lines[0]["state"] == "finished"
    table = (await ran_beside(capsys, "run", "list", "--limit", "1")).out.splitlines()
    assert table[0].split() == ["RUN", "AGENT", "STATE", "CREATED", "EVENTS", "TOOK"]
    assert table[1].split()[:3] == ["r1", "golden", "finished"]


async def test_the_trace_of_a_sampled_run_is_shown_and_no_other(capsys: Capsys, url: str) -> None:
    traces = {"sampled": f"00-{'a' * 32}-{'b' * 16}-01", "not-sampled": f"00-{'c' * 32}-{'d' * 16}-00"}
    async with Client(url) as client:
        for run_id, traceparent in traces.items():
            await client.start(run_id=run_id, traceparent=traceparent)
    for command in ("show", "diagnose"):
        assert "a" * 32 in (await ran_beside(capsys, "run", command, "sampled")).out
        assert "c" * 32 not in (await ran_beside(capsys, "run", command, "not-sampled")).out


async def test_list_is_filtered_and_bounded(capsys: Capsys) -> None:
    for number in range(3):
        await ran_beside(capsys, "run", "start", "--id", f"r{number}", "--follow")
    listed = await ran_beside(capsys, "run", "list", "--json", "--limit", "2", "--state", "finished")
    assert [run["runId"] for run in listed.lines[0]] == ["r2", "r1"]
    assert (await ran_beside(capsys, "run", "list", "--json", "--agent", "explore")).lines == [[]]


async def test_a_run_is_listed_by_its_session_and_labels(capsys: Capsys) -> None:
    await ran_beside(
        capsys,
        "run",
        "start",
        "--id",
        "r1",
        "--follow",
        "--session",
        "chat-17",
        "--label",
        "env=prod",
        "--label",
        "q=a=b",
    )
    await ran_beside(capsys, "run", "start", "--id", "r2", "--follow")
    shown = (await ran_beside(capsys, "run", "show", "r1")).out
    assert "chat-17" in shown
    assert "a=b" in shown

    async def listed(*options: str) -> list[str]:
        return [run["runId"] for run in (await ran_beside(capsys, "run", "list", "--json", *options)).lines[0]]

    assert await listed("--session", "chat-17") == ["r1"]
    assert await listed("--label", "env=prod", "--label", "q=a=b") == ["r1"]
    assert await listed("--label", "env=dev") == []
    assert await listed("--sort", "ended", "--from", "2020-01-01", "--until", "2100-01-01T00:00") == ["r2", "r1"]
    assert await listed("--until", "2020-01-01") == []
    assert await listed("--error", "boom") == []
    for wrong in (("--label", "env"), ("--sort", "up"), ("--from", "yesterday"), ("--error", "No Code")):
        assert (await ran_beside(capsys, "run", "list", *wrong)).code == 2, wrong


async def test_a_failed_run_shows_its_error(capsys: Capsys) -> None:
    await ran_beside(capsys, "run", "start", "explore", "--id", "r1", "--follow")
    assert "bad_url" in (await ran_beside(capsys, "run", "show", "r1")).out


async def test_a_waiting_run_goes_on_with_its_signal(capsys: Capsys, url: str) -> None:
    await ran_beside(capsys, "run", "start", "approval", "--id", "r1")
    async with Client(url) as client:

        async def waits_for() -> str | None:
            return (await client.run("r1")).waiting_for

        signal = await eventually(waits_for)
    assert f"waiting for {signal}" in (await ran_beside(capsys, "run", "show", "r1")).out
    assert (await ran_beside(capsys, "run", "signal", "r1", str(signal))).code == 0
    assert (await ran_beside(capsys, "run", "tail", "r1")).code == 0


async def test_a_signal_carries_data_of_a_text_or_a_file_and_its_id_makes_a_repeat_harmless(
    capsys: Capsys, url: str, tmp_path: Path
) -> None:
    file = tmp_path / "data.json"
    file.write_text('{"comment": "Go ahead."}')
    async with Client(url) as client:
        run = await client.start("elsewhere", run_id="ext", external=True)
        for given, name in (('{"comment": "Go ahead."}', "one"), (f"@{file}", "one"), (f"@{file}", "two")):
            sent = await ran_beside(capsys, "run", "signal", "ext", "approved", "--data", given, "--id", name)
            assert sent.code == 0, sent.err
        begun = await client.append(run, [RUN_STARTED])
        assert [(one.n, one.id, one.data) for one in begun.signals] == [
            (1, "one", {"comment": "Go ahead."}),
            (2, "two", {"comment": "Go ahead."}),
        ]
        assert (await client.append(run, [], signals_taken=2)).signals == ()
    refused = await ran_beside(capsys, "run", "signal", "ext", "approved", "--data", "7", "--id", "one")
    assert (refused.code, "another signal with this id" in refused.err) == (1, True)
    assert (await ran_beside(capsys, "run", "signal", "ext", "approved", "--data", "{")).code == 2
    assert (await ran_beside(capsys, "run", "signal", "ext", "approved", "--data", "@no-such-file")).code == 2


async def test_a_cancelled_run_ends_and_repeating_changes_nothing(capsys: Capsys) -> None:
    await ran_beside(capsys, "run", "start", "--id", "r1", "--input", '{"delay_ms": 200}')
    first = await ran_beside(capsys, "run", "cancel", "r1")
    assert (first.code, "requested" in first.out) == (0, True)
    assert (await ran_beside(capsys, "run", "tail", "r1")).code == 1
    assert (await ran_beside(capsys, "run", "cancel", "r1", "--json")).lines[0]["state"] == "cancelled"


@pytest.mark.parametrize("command", ["show", "cancel", "tail"])
async def test_an_unknown_run_is_one_sentence_and_exit_code_3(capsys: Capsys, command: str) -> None:
    result = await ran_beside(capsys, "run", command, "nobody")
    assert (result.code, result.out, result.err) == (3, "", "runwire: no run 'nobody'\n")


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["start", "nobody"], 2),
        (["start", "golden", "--input", '{"delay_ms": "long"}'], 2),
        (["tail", "r1", "--from-seq", "99"], 1),
        (["start", "--id", "r1", "--input", '{"delay_ms": 1}'], 1),
    ],
)
async def test_a_refusal_is_one_sentence(capsys: Capsys, args: list[str], code: int) -> None:
    await ran_beside(capsys, "run", "start", "--id", "r1", "--follow")
    result = await ran_beside(capsys, "run", *args)
    assert (result.code, result.out) == (code, "")
    assert len(result.err.splitlines()) == 1


async def test_pipes_get_no_colours(capsys: Capsys) -> None:
    assert "\x1b" not in (await ran_beside(capsys, "run", "start", "--follow")).out


async def test_a_terminal_shows_the_node_at_work(capsys: Capsys, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # what rich takes for a terminal
    async with Client(url) as client:
        await client.start("approval", run_id="r1")
        tail = asyncio.ensure_future(ran_beside(capsys, "run", "tail", "r1"))
        await asyncio.sleep(0)
        await client.signal("r1", "approved")
        result = await tail
    assert (result.code, "waiting" in result.out) == (0, True)


@pytest.mark.crash
async def test_ctrl_c_ends_a_tail_with_130_and_no_traceback(url: str) -> None:
    async with Client(url) as client:
        run = await client.start(input={"delay_ms": 30_000})
        async with started("run", "tail", run.run_id, "--json", "--url", url) as tail:
            assert json.loads(await tail.line())["type"] == "RunStarted"
            tail.process.send_signal(2)
            result = await tail.ended()
        await client.cancel(run)
    assert (result.code, result.err) == (130, "")


@pytest.mark.crash
async def test_a_reader_that_has_enough_ends_a_tail_quietly(url: str) -> None:
    async with Client(url) as client:
        run = await client.start(input={"delay_ms": 100})
    reading, writing = os.pipe()
    async with started("run", "tail", run.run_id, "--json", "--url", url, stdout=writing) as tail:
        os.close(writing)
        with os.fdopen(reading, "rb") as reader:
            assert json.loads(await asyncio.to_thread(reader.readline))["seq"] == 1
        code = await asyncio.wait_for(tail.process.wait(), 20)
        assert tail.process.stderr is not None
        assert (code, await tail.process.stderr.read()) == (0, b"")
