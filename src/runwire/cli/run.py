"""`runwire run`: start runs and look at them, over HTTP."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import typer

from runwire.cli.options import DEFAULT_URL, Json, RunId, Token, Url, examples
from runwire.cli.run_output import print_diagnosis, print_signals, print_table, print_view
from runwire.errors import ExitCode, InvalidRequest
from runwire.model.labels import parsed_labels
from runwire.model.run import RunState

if TYPE_CHECKING:
    from runwire.client import Client, RunView

T = TypeVar("T")

RETRY_S: Final = 2.0
"""Seconds for which a command tries to reach the service. It is short, because a person is waiting."""

_TIMES: Final = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="A label of the run; may be repeated.")
]


_STATES: Final = ", ".join(state.value for state in RunState)

app = typer.Typer(help="Start, view and follow runs.", rich_markup_mode="rich")


@app.command(
    epilog=examples(
        "runwire run start",
        """runwire run start explore --input '{"site": "http://127.0.0.1:8080/docs/"}' --follow""",
        "runwire run start triage --input @question.json --idempotency-key order-17",
        "runwire run start --session chat-17 --label team=search --label env=prod",
    )
)
def start(
    *,
    agent: Annotated[str, typer.Argument(help="The agent to run.")] = "golden",
    input_: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="JSON|@FILE", help="The run's input: a JSON object, or @ and a file (@- is stdin)."
        ),
    ] = None,
    run_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The run's id; default a new UUIDv7.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", metavar="KEY", help="Repeated starts with this key are one run.")
    ] = None,
    session: Annotated[
        str | None, typer.Option(metavar="NAME", help="The conversation the run belongs to; list finds it by that.")
    ] = None,
    label: Labels = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow the run to its end; exit with 1 if it fails.")
    ] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> int:
    """Start a run and print its id."""
    given = None if input_ is None else _input(input_)
    labels = parsed_labels(label or (), between="=")

    async def work(client: Client) -> int:
        from runwire.cli.follow import follow as follow_run
        from runwire.cli.output import print_json, say

        run = await client.start(
            agent, input=given, run_id=run_id, idempotency_key=idempotency_key, session=session, labels=labels
        )
        if follow:
            if not as_json:
                say(f"run {run.run_id}")
            return await follow_run(client.stream(run), as_json=as_json)
        if as_json:
            print_json(run)
        else:
            typer.echo(run.run_id)
        return ExitCode.OK

    return with_client(url, token, work)


@app.command(
    "list",
    epilog=examples(
        "runwire run list",
        "runwire run list --state failed --agent explore --limit 5 --json",
        "runwire run list --session chat-17 --label env=prod",
        "runwire run list --error node_timeout --from 2026-11-30 --until 2026-11-30T12:00:00 --sort ended",
    ),
)
def list_(
    *,
    state: Annotated[RunState | None, typer.Option(help=f"Only runs in this state: {_STATES}.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only runs of this agent.")] = None,
    session: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of this session.")] = None,
    label: Labels = None,
    error: Annotated[str | None, typer.Option(metavar="CODE", help="Only runs that failed with this code.")] = None,
    from_: Annotated[
        datetime | None, typer.Option("--from", formats=_TIMES, help="Only runs created then or later (UTC).")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--until", formats=_TIMES, help="Only runs created before then (UTC).")
    ] = None,
    sort: Annotated[
        Literal["created", "ended"],
        typer.Option(help="The latest created first, or the latest ended first, without open runs."),
    ] = "created",
    limit: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="Most runs to list.")] = 20,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> int:
    """List runs, the latest first. A run is listed if it matches all filters, and has all labels."""
    labels = parsed_labels(label or (), between="=")

    async def work(client: Client) -> int:
        from runwire.cli.output import print_json

        found: list[RunView] = []
        async for view in client.runs(
            state=state,
            agent=agent,
            session=session,
            labels=labels,
            error_code=error,
            created_from=from_ and from_.replace(tzinfo=UTC),
            created_until=until and until.replace(tzinfo=UTC),
            sort=sort,
            page_size=min(limit, 100),
        ):
            found.append(view)
            if len(found) == limit:
                break
        if as_json:
            print_json(found)
        else:
            print_table(found)
        return ExitCode.OK

    return with_client(url, token, work)


@app.command(epilog=examples("runwire run show 0197a5c2-...", "runwire run show 0197a5c2-... --json"))
def show(*, run_id: RunId, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None) -> int:
    """Show a run: its state, and its last stored and last published seq."""

    async def work(client: Client) -> int:
        print_view(await client.run(run_id), as_json=as_json)
        return ExitCode.OK

    return with_client(url, token, work)


@app.command(epilog=examples("runwire run diagnose 0197a5c2-...", "runwire run diagnose 0197a5c2-... --json"))
def diagnose(*, run_id: RunId, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None) -> int:
    """Show where a run is stuck and what to do. Exit with 0 if the pipeline has provably done its part, else with 1."""

    async def work(client: Client) -> int:
        found = await client.diagnosis(run_id)
        print_diagnosis(found, as_json=as_json)
        return ExitCode.OK if found.healthy else ExitCode.FAILED

    return with_client(url, token, work)


@app.command(epilog=examples("runwire run cancel 0197a5c2-..."))
def cancel(*, run_id: RunId, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None) -> int:
    """Cancel a run: interrupts a running node, and ends a run at rest at once. Repeating it changes nothing."""

    async def work(client: Client) -> int:
        print_view(await client.cancel(run_id), as_json=as_json)
        return ExitCode.OK

    return with_client(url, token, work)


@app.command(
    epilog=examples(
        "runwire run signal 0197a5c2-... approved",
        """runwire run signal 0197a5c2-... approved --data '{"comment": "Go ahead."}' --id review-17""",
    )
)
def signal(
    *,
    run_id: RunId,
    name: Annotated[str, typer.Argument(help="The signal's name, as the waiting node gave it.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="JSON|@FILE|-", help="Data for the node that goes on: JSON, or @ and a file (- is stdin)."
        ),
    ] = None,
    signal_id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="The signal's id: repeated with it, the signal counts once."),
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> int:
    """Send a signal to a waiting run. A signal that comes before its run waits is kept."""
    import msgspec

    given = msgspec.UNSET if data is None else _json(data, option="--data")

    async def work(client: Client) -> int:
        print_view(await client.signal(run_id, name, data=given, signal_id=signal_id), as_json=as_json)
        return ExitCode.OK

    return with_client(url, token, work)


@app.command(
    epilog=examples("runwire run signals 0197a5c2-...", "runwire run signals 0197a5c2-... --json | jq .accepts")
)
def signals(*, run_id: RunId, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None) -> int:
    """Show the signals for which a run waits, those that it accepts, and those that it has not taken."""

    async def work(client: Client) -> int:
        print_signals(await client.signals(run_id), as_json=as_json)
        return ExitCode.OK

    return with_client(url, token, work)


@app.command(
    epilog=examples(
        "runwire run tail 0197a5c2-...",
        "runwire run tail 0197a5c2-... --from-seq 13 --json | jq .type",
        "runwire run tail 0197a5c2-... --parts",
    )
)
def tail(
    *,
    run_id: RunId,
    from_seq: Annotated[int, typer.Option(min=0, metavar="N", help="Only events after this seq.")] = 0,
    parts: Annotated[bool, typer.Option("--parts", help="Show the content of parts as it is made, too.")] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> int:
    """Follow a run to its end, from its beginning. Reconnects by itself, repeats and skips nothing."""
    if parts and from_seq:
        raise InvalidRequest("--parts shows a run from its beginning: leave --from-seq out")

    async def work(client: Client) -> int:
        from runwire.cli.follow import follow, follow_parts

        view = await client.run(run_id)
        if parts:
            mixed = client.stream_with_parts(run_id)
            return await follow_parts(mixed, as_json=as_json, started_ms=view.started_at)
        stream = client.stream(run_id, after=from_seq)
        return await follow(stream, as_json=as_json, started_ms=view.started_at)

    return with_client(url, token, work)


@app.command(
    epilog=examples(
        "runwire run replay 0197a5c2-...",
        "runwire run replay 0197a5c2-... --speed 10",
        "runwire run replay 0197a5c2-... --speed max --json | jq .ts",
    )
)
def replay(
    *,
    run_id: RunId,
    speed: Annotated[
        str, typer.Option(metavar="N|max", help="Replay N times faster; max sends all events at once.")
    ] = "1",
    from_seq: Annotated[int, typer.Option(min=0, metavar="N", help="Only events after this seq.")] = 0,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> int:
    """Replay a run that has ended, at its original speed. Archived runs, too."""
    times = _speed(speed)

    async def work(client: Client) -> int:
        from runwire.cli.follow import follow

        view = await client.run(run_id)
        stream = client.replay(run_id, speed=times, after=from_seq)
        return await follow(stream, as_json=as_json, started_ms=view.started_at)

    return with_client(url, token, work)


def _speed(given: str) -> float | Literal["max"]:
    if given == "max":
        return "max"
    try:
        return float(given)
    except ValueError:
        raise InvalidRequest("--speed must be a number, or max") from None


def with_client(url: str, token: str | None, work: Callable[[Client], Awaitable[int]]) -> int:
    """The exit code of `work`, done with a client of the service."""
    from runwire.client import Client

    async def run() -> int:
        async with Client(url, token=token, retry_s=RETRY_S) as client:
            return await work(client)

    return asyncio.run(run())


def _input(given: str) -> dict[str, Any]:
    decoded = _json(given, option="--input", what="a JSON object")
    if not isinstance(decoded, dict):
        raise InvalidRequest("--input must be a JSON object")
    return decoded


def _json(given: str, *, option: str, what: str = "JSON") -> Any:
    """The JSON that an option gives: as it stands, or of a file (`@name`; `@-` and `-` are stdin)."""
    import msgspec

    try:
        text = given if given != "-" and not given.startswith("@") else _read(given.removeprefix("@"))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", "not UTF-8")
        raise InvalidRequest(f"{option}: {given.removeprefix('@')} cannot be read: {why}") from error
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        why = error if isinstance(error, msgspec.DecodeError) else "it is nested too deeply, or no Unicode text"
        raise InvalidRequest(f"{option} must be {what}: {why}") from error


def _read(name: str) -> str:
    return sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
