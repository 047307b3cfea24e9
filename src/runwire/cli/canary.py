"""`runwire canary`: walks the way of a user through the public URL, again and again, and says how it went."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from runwire.cli.options import DEFAULT_URL, Json, Token, Url, examples
from runwire.errors import ConfigurationError, ExitCode, RunwireError

if TYPE_CHECKING:
    from runwire.canary import Round
    from runwire.client import Client

EPILOG: Final = (
    examples(
        "runwire canary --url https://runs.example.com --token-file /run/secrets/canary",
        "RUNWIRE_TOKEN=... runwire canary --url https://runs.example.com --every 30 --metrics-host 0.0.0.0",
        "runwire canary --once",
        "runwire canary --once --json | jq .seconds",
    )
    + "\n\nA round starts a run of the agent canary, follows its events, sends its signal or cancels it, and reads its "
    "log again. The credential needs the scopes runs:start, runs:read, runs:signal and runs:cancel. With --once: exit "
    "code 0 for a good round, 1 for a bad one. Without: SIGTERM ends it with 0, Ctrl-C with 130."
)
_MARKS: Final = {True: "[green]good[/]", False: "[bold red]bad [/]"}


class CanaryFailed(RunwireError):
    """The canary could not listen."""

    code = "canary_failed"


def canary(
    *,
    url: Url = DEFAULT_URL,
    token: Token = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with the token, read for each request; wins over --token.",
            rich_help_panel="Service",
        ),
    ] = None,
    every: Annotated[
        float, typer.Option(min=0.1, max=60.0, metavar="S", help="Seconds from the start of a round to the next.")
    ] = 10.0,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=30.0, metavar="S", help="Seconds after which a step has failed.")
    ] = 10.0,
    cancel_every: Annotated[
        int, typer.Option(min=0, metavar="N", help="Cancel the run in each Nth round; 0: in none.")
    ] = 4,
    once: Annotated[bool, typer.Option("--once", help="Walk one round, and exit with 1 if it fails.")] = False,
    as_json: Json = False,
    metrics_host: Annotated[str, typer.Option(metavar="HOST", help="Address of the canary's metrics.")] = "127.0.0.1",
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port of the canary's metrics; 0 takes a free one.")
    ] = 9474,
) -> int:
    """Walk the way of a user through a service, again and again: start, stream, signal, cancel."""
    from runwire.client import Client

    client = Client(url, token=_token(token, token_file), timeout_s=timeout, retry_s=timeout / 4)
    if once:
        work = _once(client, timeout_s=timeout, cancels=cancel_every == 1, as_json=as_json)
    else:
        work = _again_and_again(
            client,
            every_s=every,
            timeout_s=timeout,
            cancel_every=cancel_every,
            as_json=as_json,
            host=metrics_host,
            port=metrics_port,
        )
    return asyncio.run(work)


def _token(token: str | None, file: Path | None) -> str | Callable[[], str] | None:
    """The token, or a function that reads it: a file may get a new one at any time. Raises ConfigurationError."""
    if file is None:
        return token
    read = _from_file(file)
    if not read:
        raise ConfigurationError((f"--token-file: {file} is empty",))
    last = read

    def again() -> str:
        nonlocal last
        with contextlib.suppress(ConfigurationError):  # while it is being replaced, the old one holds
            last = _from_file(file) or last
        return last

    return again


def _from_file(file: Path) -> str:
    try:
        return file.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigurationError((f"--token-file: {file} cannot be read: {why}",)) from error


async def _once(client: Client, *, timeout_s: float, cancels: bool, as_json: bool) -> int:
    from runwire.canary import walked

    async with client:
        ended = await walked(client, timeout_s=timeout_s, cancels=cancels)
    _tell(ended, as_json=as_json)
    return ExitCode.OK if ended.good else ExitCode.FAILED


async def _again_and_again(
    client: Client, *, every_s: float, timeout_s: float, cancel_every: int, as_json: bool, host: str, port: int
) -> int:
    from runwire.canary import Canary, CanaryMetrics, metrics_listener
    from runwire.cli.failures import sentences_of
    from runwire.telemetry.exposition import Exposition

    out = Exposition()
    metrics = CanaryMetrics(out)
    try:
        async with client, metrics_listener(out, host=host, port=port) as listens_at:
            _tell_start(f"http://{host}:{listens_at}/metrics", as_json=as_json)
            walker = Canary(client, metrics, every_s=every_s, timeout_s=timeout_s, cancel_every=cancel_every)
            walking = asyncio.create_task(walker.run(lambda ended: _tell(ended, as_json=as_json)), name="canary")
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, walking.cancel)
            await asyncio.wait({walking})
            if not walking.cancelled():
                walking.result()
    except OSError as error:
        raise CanaryFailed(sentences_of(error)[0]) from error
    return ExitCode.OK


def _tell_start(url: str, *, as_json: bool) -> None:
    from runwire.cli.output import print_json, say

    if as_json:
        print_json({"event": "canary_started", "metrics": url})
    else:
        say(f"metrics at {url}")


def _tell(ended: Round, *, as_json: bool) -> None:
    from rich.markup import escape

    from runwire.cli.output import console, duration, harmless, print_json

    failed = ended.failed
    if as_json:
        said = None if failed is None else {"step": failed.step, "reason": failed.reason, "said": failed.said}
        seconds = {step.value: round(took, 6) for step, took in ended.seconds.items()}
        print_json(
            {
                "event": "round",
                "good": ended.good,
                "runId": ended.run_id,
                "cancelled": ended.cancelled,
                "seconds": seconds,
                "tookSeconds": round(ended.took_s, 6),
                "failed": said,
            }
        )
        return
    steps = "  ".join(f"[dim]{step}[/] {duration(took * 1000)}" for step, took in ended.seconds.items())
    why = "" if failed is None else f"  [red]{failed.step}: {failed.reason}[/]: {escape(harmless(failed.said))}"
    console().print(f"{_MARKS[ended.good]}  {ended.run_id}  {steps}{why}", soft_wrap=True)
