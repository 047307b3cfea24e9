"""Only SIGTERM and SIGINT end a service: not what its agents leave running, and none of that is told with its text."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from cli.command import ran, started
from cli.leaver import TEXT
from runwire import Client

pytestmark = pytest.mark.crash

LEFT = (
    "callback",
    "timer",
    "task that exits",
    "task that interrupts",
    "task that fails",
    "thread",
    "finaliser",
    "warning",
    "log",
    "task that stays",
    "thread that stays",
)


async def test_a_service_outlives_whatever_its_agents_leave_running_and_tells_of_it_without_its_text(
    database: str,
) -> None:
    serve = ("serve", "--port", "0", "--admin-port", "0", "--agents", "cli.leaver:leaver")
    environment = {"DATABASE_URL": database, "PYTHONPATH": str(Path(__file__).parents[1]), "RUNWIRE_DRAIN_S": "2"}
    async with started(*serve, **environment) as serving:
        line = {"event": ""}
        while line["event"] != "server_started":
            line = json.loads(await serving.line(within_s=60))
        async with Client(f"http://127.0.0.1:{line['port']}") as client:
            for how in LEFT:
                run_id = (await client.start("leaver", input={"how": how, "code": 0})).run_id
                assert [event async for event in client.stream(run_id)][-1].type == "RunFinished", how
                assert (await client.run(run_id)).state == "finished", how
        serving.process.send_signal(signal.SIGTERM)
        result = await serving.ended(within_s=30)
    assert result.code == 0
    assert TEXT not in result.out + result.err
    assert "Traceback" not in result.err
    told = [
        (line["logger"], line["message"].partition(" at ")[0]) for line in result.lines if line["event"] == "library"
    ]
    assert set(told) == {
        ("asyncio", "Exception in callback"),
        ("asyncio", "Task exception was never retrieved"),
        ("threading", "Exception in thread"),
        ("python", "Exception ignored"),
        ("py.warnings", "RuntimeWarning"),
        ("theirs", "ValueError"),
    }
    ended = [line["error"]["type"] for line in result.lines if line["event"] == "task_failed"]
    assert ended == ["builtins.SystemExit", "builtins.SystemExit", "builtins.KeyboardInterrupt"]


def test_a_command_that_something_ends_is_no_success(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exits(*_args: object, **_named: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr("runwire.settings.load_settings", exits)
    assert ran(capsys, "migrate").code == 1


async def test_a_thread_of_a_module_that_cannot_be_imported_holds_nothing_up(database: str) -> None:
    environment = {"DATABASE_URL": database, "PYTHONPATH": str(Path(__file__).parents[1])}
    async with started("serve", "--agents", "cli.agents_that_hold:fine", **environment) as serving:
        result = await serving.ended(within_s=40)
    assert result.code == 2
    assert "cli.agents_that_hold:fine cannot be loaded: LookupError: no model" in result.err


async def test_a_thread_of_a_module_that_ends_the_process_makes_no_success_of_it(database: str, tmp_path: Path) -> None:
    told = tmp_path / "end"
    environment = {"DATABASE_URL": database, "PYTHONPATH": str(Path(__file__).parents[1]), "HOLD_EXITS_BY": str(told)}
    serve = ("serve", "--port", "0", "--admin-port", "0", "--agents", "cli.agents_that_hold:fine")
    async with started(*serve, **environment) as serving:
        while json.loads(await serving.line(within_s=60))["event"] != "server_started":
            pass
        told.touch()
        assert (await serving.ended(within_s=60)).code == 1
