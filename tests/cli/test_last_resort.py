"""A failing command prints one sentence and sets an exit code: never a traceback, never a secret."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest

from cli.command import bare_environment, ran
from runwire.cli import run
from runwire.errors import ExitCode

RUNWIRE = (sys.executable, "-m", "runwire")
NOWHERE = ("--url", "http://127.0.0.1:1")
COMMANDS = {
    "version": ("--version",),
    "help": ("--help",),
    "help of a command": ("run", "start", "--help"),
    "keys": ("keys", "create", "--scope", "runs:read"),
    "keys as JSON": ("keys", "create", "--scope", "runs:read", "--json"),
    "ops": ("ops", "render", "--check", "--json"),
}


def ended(*args: str, redirected: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirected}', "sh", *RUNWIRE, *args],
        env={**bare_environment(), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_full_disk_is_one_sentence_and_no_success(command: tuple[str, ...]) -> None:
    result = ended(*command, redirected=">/dev/full")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "runwire: the output cannot be written: No space left on device"
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("redirected", [">&-", "2>&-", "<&- >&- 2>&-", "| head -1", "2>/dev/full"])
def test_closed_streams_and_short_readers_are_no_error(command: tuple[str, ...], redirected: str) -> None:
    result = ended(*command, redirected=redirected)
    assert result.returncode == 0
    assert "Traceback" not in result.stderr
    assert "Error" not in result.stderr


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_locale_that_shows_little_gets_what_it_can_show(command: tuple[str, ...]) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    result = ended(*command, **ascii_only)
    assert result.returncode == 0
    assert result.stdout.isascii()


@pytest.mark.parametrize(
    "args",
    [
        ("run", "list", "--token", "hunter2\n", *NOWHERE),
        ("run", "start", "--url", "http://user:hunter2@127.0.0.1:1"),
        ("run", "tail", "r1", "--url", "http://127.0.0.1:hunter2"),
        ("run", "show", "r1", "--url", "http://a..b"),
        ("doctor", "http://user:hunter2@127.0.0.1:1"),
        ("doctor", "no-url"),
        ("run", "show", "\0", *NOWHERE),
        ("run", "show", "\ud800", *NOWHERE),
        ("run", "signal", "r1", "\ud800", *NOWHERE),
        ("run", "start", "\ud800", *NOWHERE),
        ("run", "start", "--input", "[" * 100_000, *NOWHERE),
        ("run", "start", "--input", '{"a": ' * 5_000, *NOWHERE),
        ("run", "start", "--input", "@/dev", *NOWHERE),
        ("run", "start", "--input", "@\0", *NOWHERE),
        ("run", "replay", "r1", "--speed", "nan", *NOWHERE),
        ("run", "replay", "r1", "--speed", "-1", *NOWHERE),
        ("run", "tail", "r1", "--from-seq", "9" * 30, *NOWHERE),
        ("keys", "create", "--scope", "runs:read", "--expires-days", "9" * 30),
        ("keys", "create", "--scope", "runs:read", "--file", "/dev/null/keys"),
        ("keys", "create", "--scope", "runs:read", "--file", "\0"),
        ("keys", "create", "--scope", "runs:read", "--tenant", "\ud800"),
        ("keys", "create", "--scope", "runs:read", "--name", "two words\n"),
        ("ops", "render", "--root", "/nope"),
        ("ops", "render", "--out", "/dev/null/x"),
        ("ops", "render", "--scale", "nan", "--check"),
        ("demo", "--data-dir", "/dev/null/x"),
        ("demo", "--data-dir", "\0"),
        ("serve", "--data-dir", "/dev/null/x"),
        ("serve", "--data-dir", "\0"),
        ("serve", "--host", "\0"),
        ("serve", "--host", "no such host"),
        ("serve", "--host", "a" * 300),
        ("serve", "--port", "9" * 30),
        ("serve", "--processes", "0"),
        ("migrate", "--data-dir", "/dev/null/x"),
        ("doctor", "--data-dir", "/dev/null/x"),
        ("archive", "list", "--archive", "\0"),
        ("archive", "list", "--archive", "ftp://nowhere"),
        ("archive", "verify", "--day", "yesterday"),
    ],
    ids=lambda args: " ".join(args)[:60].encode("unicode_escape").decode(),
)
def test_wrong_arguments_are_one_sentence_without_what_may_be_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    monkeypatch.setattr(run, "RETRY_S", 0.1)
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody:hunter2@127.0.0.1:1/none")
    if "--data-dir" in args:
        monkeypatch.delenv("DATABASE_URL")
    result = ran(capsys, *args)
    assert result.code in (1, 2, 3, 4)
    assert all(line.startswith("runwire: ") for line in result.err.splitlines() if "starting" not in line)
    assert "hunter2" not in result.err + result.out
    assert "Traceback" not in result.err
    assert "defect" not in result.err


def test_an_error_that_nobody_foresaw_is_named_without_its_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_speed: str) -> float:
        raise KeyError("hunter2")

    monkeypatch.setattr(run, "_speed", broken)
    result = ran(capsys, "run", "replay", "r1")
    assert result.code == ExitCode.FAILED
    assert result.err.startswith("runwire: unexpected error, a defect of runwire")
    assert "KeyError at runwire/cli/run.py:" in result.err
    assert "hunter2" not in result.err


@pytest.mark.crash
@pytest.mark.parametrize("args", [("run", "list"), ("run", "start", "--follow"), ("run", "tail", "r1")])
def test_ctrl_c_while_the_service_is_silent_says_nothing(args: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = subprocess.Popen(
            [*RUNWIRE, *args, "--url", f"http://127.0.0.1:{silent.getsockname()[1]}"],
            env=bare_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        silent.settimeout(30)
        connected, _ = silent.accept()
        with connected:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err in ("", "run r1\n")
