"""Every command explains itself, and says in one sentence what was wrong with how it was called."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from cli.command import ran
from runwire import __version__
from runwire.settings import Role

COMMANDS = [
    "serve",
    "demo",
    "demo chat",
    "doctor",
    "canary",
    "top",
    "migrate",
    "run",
    "keys create",
    "run start",
    "run list",
    "run show",
    "run cancel",
    "run signal",
    "run tail",
]
HEAVY = ("aiohttp", "asyncpg", "pydantic", "opentelemetry", "structlog")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "RUNWIRE_DATABASE_URL", "RUNWIRE_URL", "RUNWIRE_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_shows_examples(capsys: pytest.CaptureFixture[str], command: str) -> None:
    result = ran(capsys, *command.split(), "--help")
    assert result.code == 0
    assert "Examples:" in result.out
    assert f"$ runwire {command}" in result.out or "DATABASE_URL=" in result.out


@pytest.mark.parametrize("args", [[], ["run"], ["--help"]])
def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    result = ran(capsys, *args)
    assert result.code == 0
    assert "$ runwire run start" in result.out


@pytest.mark.parametrize("command", [*COMMANDS, "", "archive", "archive run", "archive restore", "ops render"])
def test_help_names_values_and_shows_none_where_there_is_none(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """`--follow <bool>` is nothing to type."""
    assert not re.search(r"<\w+>", ran(capsys, *command.split(), "--help").out)


def test_defaults_in_help_are_shown_and_not_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    shown = " ".join(ran(capsys, "serve", "--help").out.replace("│", " ").split())
    assert "[default: 127.0.0.1]" in shown
    assert "[default: 8080]" in shown
    assert "[default: all]" in shown


def test_the_exit_codes_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Exit codes:" in ran(capsys, "--help").out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(capsys, "--version").out == f"runwire {__version__}\n"


def test_serve_names_every_role(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(role.value in ran(capsys, "serve", "--help").out for role in Role)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["serve", "--nonsense"], "--nonsense"),
        (["serve", "--port", "many"], "--port"),
        (["nonsense"], "nonsense"),
        (["demo", "chats"], "chats"),
        (["demo", "--keep", "chat"], "after its name"),
        (["demo", "chat", "--nonsense"], "--nonsense"),
        (["demo", "chat", "extra"], "extra"),
        (["run", "show"], "ID"),
        (["run", "list", "--state", "sleeping"], "sleeping"),
        (["run", "list", "--limit", "0"], "limit"),
        (["run", "show", "a/b"], "runId"),
        (["run", "start", "--input", "[1]"], "--input must be a JSON object"),
        (["run", "start", "--input", "{"], "--input must be a JSON object"),
        (["run", "start", "--input", "@/no/such/file"], "/no/such/file"),
        (["run", "start", "--url", "localhost:8080"], "http://"),
        (["serve", "--port", "70000"], "RUNWIRE_PORT"),
        (["serve", "--role", "chef"], "RUNWIRE_ROLES"),
        (["serve", "--agents", "nonsense"], "RUNWIRE_AGENTS"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], args: list[str], said: str
) -> None:
    result = ran(capsys, *args)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert all(line.startswith("runwire: ") for line in result.err.splitlines())
    assert "Traceback" not in result.err


def test_every_wrong_setting_is_named_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNWIRE_LEASE_S", "long")
    monkeypatch.setenv("RUNWIRE_LOG_LEVEL", "loud")
    result = ran(capsys, "serve", "--port", "70000")
    assert result.code == 2
    said = result.err
    assert all(name in said for name in ("RUNWIRE_LEASE_S", "RUNWIRE_LOG_LEVEL", "RUNWIRE_PORT"))


@pytest.mark.parametrize(
    "args",
    [["list"], ["start"], ["show", "r1"], ["cancel", "r1"], ["signal", "r1", "go"], ["tail", "r1"], ["start", "-f"]],
)
def test_a_service_that_is_not_there_is_one_sentence_and_exit_code_4(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, args: list[str]
) -> None:
    monkeypatch.setattr("runwire.cli.run.RETRY_S", 0.1)
    result = ran(capsys, "run", *args, "--url", "http://127.0.0.1:1")
    assert (result.code, result.out) == (4, "")
    assert result.err.startswith("runwire: cannot reach http://127.0.0.1:1: connection refused")
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("dsn", "code", "said"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", 4, "cannot connect to PostgreSQL"),
        ("mysql://x", 2, "DATABASE_URL"),
    ],
)
def test_a_database_that_is_not_there_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, dsn: str, code: int, said: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", dsn)
    result = ran(capsys, "migrate")
    assert (result.code, result.out) == (code, "")
    assert said in result.err
    assert len(result.err.splitlines()) == 1


def test_help_waits_for_nothing_heavy() -> None:
    script = f"import runwire.cli, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
