"""`runwire canary` walks the way of a user, and tells apart what can go wrong on it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx
import pytest

from cli.command import ran, ran_beside, started
from cli.liar import Change, liar
from crash.fleet import free_port
from runwire.assembly import Assembly
from runwire.canary import CanaryMetrics, Reason, Round, Step, StepFailed, walked
from runwire.canary.rounds import given_up
from runwire.client import Client
from runwire.settings import Role, Settings
from runwire.telemetry.exposition import Exposition
from waiting import eventually

Capsys = pytest.CaptureFixture[str]
SIGNALLED = {"start", "first_event", "waiting", "signal", "end", "log"}
CANCELLED = {"start", "first_event", "waiting", "cancel", "log"}
TIMEOUT_S = 30.0


async def test_a_good_round_times_every_step(url: str, capsys: Capsys) -> None:
    result = await ran_beside(capsys, "canary", "--once", "--json", "--timeout", "30")
    (line,) = result.lines
    assert (result.code, line["good"], line["cancelled"], line["failed"]) == (0, True, False, None)
    assert set(line["seconds"]) == SIGNALLED
    assert line["seconds"]["start"] <= line["seconds"]["first_event"] <= line["seconds"]["waiting"]
    async with Client(url) as client:
        run = await client.run(line["runId"])
    assert (run.state, run.agent, run.labels) == ("finished", "canary", {"canary": "true"})


async def test_a_round_may_cancel_its_run(url: str, capsys: Capsys) -> None:
    result = await ran_beside(capsys, "canary", "--once", "--json", "--cancel-every", "1", "--timeout", "30")
    (line,) = result.lines
    assert (result.code, set(line["seconds"]), line["cancelled"]) == (0, CANCELLED, True)
    async with Client(url) as client:
        assert (await client.run(line["runId"])).state == "cancelled"


async def test_a_round_is_told_to_people_in_a_line(url: str, capsys: Capsys) -> None:
    result = await ran_beside(capsys, "canary", "--once", "--timeout", "30")
    assert (result.code, result.err) == (0, "")
    (line,) = result.out.splitlines()
    assert line.startswith("good  ")
    assert "first_event" in line


def test_a_service_that_is_not_there_is_a_bad_round_and_one_sentence(capsys: Capsys) -> None:
    result = ran(capsys, "canary", "--once", "--timeout", "8", "--url", f"http://127.0.0.1:{free_port()}")
    (line,) = result.out.splitlines()
    assert result.code == 1
    assert line.startswith("bad ")
    assert "start: unreachable: cannot reach http://127.0.0.1:" in line


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--every", "100"], "--every"),
        (["--token-file", "nowhere"], "--token-file: nowhere cannot be read"),
        (["--url", "ftp://x", "--once"], "http"),
    ],
)
def test_wrong_usage_is_told_in_one_sentence(args: list[str], said: str, capsys: Capsys) -> None:
    result = ran(capsys, "canary", *args)
    assert (result.code, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert said in line


async def test_it_walks_until_it_is_told_to_end_and_exports_what_it_sees(url: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("rw_any\n")
    args = ["--json", "--url", url, "--token-file", str(token), "--every", "0.1", "--cancel-every", "2"]
    async with started("canary", *args, "--timeout", "30", "--metrics-port", "0") as canary:
        first = json.loads(await canary.line())
        assert first["event"] == "canary_started"
        rounds = [json.loads(await canary.line()) for _ in range(2)]
        assert [(line["good"], line["cancelled"]) for line in rounds] == [(True, False), (True, True)]
        async with httpx.AsyncClient() as http:
            scrape = (await http.get(first["metrics"])).text
        canary.process.send_signal(signal.SIGTERM)
        assert (await canary.ended()).code == 0
    assert "\nrunwire_canary_up 1.0\n" in scrape
    assert "\nrunwire_canary_failed_rounds 0.0\n" in scrape
    assert '\nrunwire_canary_step_seconds_count{step="cancel"} 1\n' in scrape
    assert '\nrunwire_canary_failures_total{reason="timeout",step="start"} 0.0\n' in scrape.replace(
        'step="start",reason="timeout"', 'reason="timeout",step="start"'
    )
    assert "\nrunwire_canary_last_success_timestamp_seconds " in scrape


async def test_ctrl_c_ends_it_as_other_commands(url: str) -> None:
    async with started("canary", "--json", "--url", url, "--metrics-port", "0") as canary:
        await canary.line()
        canary.process.send_signal(signal.SIGINT)
        assert (await canary.ended()).code == 130


async def test_a_run_that_nobody_takes_is_a_timeout_and_is_cancelled(database: str) -> None:
    """Without a worker: the round says at which step, and leaves nothing open."""
    roles = (Role.API, Role.PUBLISHER)
    settings = Settings(database_url=database, bus="postgres", port=0, admin_port=0, drain_s=0, roles=roles)
    async with Assembly(settings) as service, Client(service.url) as client:
        ended = await walked(client, timeout_s=1, cancels=False)
        assert ended.failed is not None
        assert (ended.failed.step, ended.failed.reason) == (Step.FIRST_EVENT, Reason.TIMEOUT)
        assert (await client.run(ended.run_id)).state == "cancelled"


@pytest.mark.parametrize(
    ("frame", "page", "reasons"),
    [
        (lambda frame: frame * 2 if b"NodeFinished" in frame else frame, None, {Reason.REPEATED}),
        (lambda frame: b"retry: 10\n\n" if b"id: 2\n" in frame else frame, None, {Reason.SKIPPED}),
        (None, lambda page: page.replace(b"Teardown", b"Takedown"), {Reason.LOG_DIFFERS}),
        (lambda frame: frame.replace(b'"finished"', b'"failed"'), None, {Reason.WRONG_END}),
    ],
    ids=["repeated", "skipped", "another log", "another end"],
)
async def test_a_service_that_lies_is_caught(
    url: str, frame: Change | None, page: Change | None, reasons: set[Reason]
) -> None:
    async with liar(url) as before, Client(before.url) as client:
        assert (await walked(client, timeout_s=TIMEOUT_S, cancels=False)).failed is None
        before.frame, before.page = frame or before.frame, page or before.page
        ended = await walked(client, timeout_s=3 if reasons == {Reason.SKIPPED} else TIMEOUT_S, cancels=False)
    assert ended.failed is not None
    assert ended.failed.reason in reasons


def test_metrics_tell_rounds_apart_and_count_bad_ones_in_a_row() -> None:
    out = Exposition()
    metrics = CanaryMetrics(out)

    def value(name: str, **labels: str) -> float | None:
        return out.registry.get_sample_value(f"runwire_canary_{name}", labels)

    assert (value("up"), value("failed_rounds"), value("last_success_timestamp_seconds")) == (None, 0, None)
    bad = Round("r", False, {Step.START: 0.01}, 1.0, StepFailed(Step.FIRST_EVENT, Reason.TIMEOUT, "late"))
    metrics.count(bad)
    metrics.count(bad)
    assert (value("up"), value("failed_rounds"), value("rounds_total", outcome="bad")) == (0, 2, 2)
    assert value("failures_total", step="first_event", reason="timeout") == 2
    assert value("last_round_timestamp_seconds") is not None
    assert value("last_success_timestamp_seconds") is None
    metrics.count(Round("r", False, {}, 1.0, None))
    assert (value("up"), value("failed_rounds"), value("rounds_total", outcome="good")) == (1, 0, 1)


async def test_runs_of_failed_rounds_are_cancelled_once_the_service_is_back(url: str) -> None:
    """A start whose answer is lost: the run is there, and the round knows its id."""
    async with Client(url) as client:
        run = await client.start("canary", run_id="left")

        async def waits() -> bool:
            return (await client.run(run)).state == "waiting"

        await eventually(waits, within_s=30)
        assert await given_up(client, "left", within_s=TIMEOUT_S)
        assert await given_up(client, "never-started", within_s=TIMEOUT_S)
        assert (await client.run(run)).state == "cancelled"
