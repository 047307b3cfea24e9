"""`runwire run artifacts`, `artifact`, `parts`, `part` and `result`: what users see of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runwire.cli import run
from runwire.cli.options import DEFAULT_URL, Json, RunId, Token, Url, examples
from runwire.cli.run import with_client
from runwire.errors import ArtifactNotFound, ExitCode, InvalidRequest, PartNotFound

if TYPE_CHECKING:
    from runwire.client import Artifact, Client, PartInfo


app = run.app
"""The commands of runs, with those of this module."""


@app.command(epilog=examples("runwire run artifacts 0197a5c2-...", "runwire run artifacts 0197a5c2-... --json | jq"))
def artifacts(
    *,
    run_id: RunId,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Only artifacts of this name.")] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> int:
    """List a run's artifacts: number, name, media type, size."""

    async def work(client: Client) -> int:
        from runwire.cli.output import print_json

        found = await client.artifacts(run_id, name=name)
        if as_json:
            print_json(found)
        else:
            _print_table(found)
        return ExitCode.OK

    return with_client(url, token, work)


@app.command(
    epilog=examples(
        "runwire run artifact 0197a5c2-... 1 -o report.pdf", "runwire run artifact 0197a5c2-... 2 | head -c 100"
    )
)
def artifact(
    *,
    run_id: RunId,
    n: Annotated[int, typer.Argument(min=1, metavar="N", help="The artifact's number.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file; default is stdout.")
    ] = None,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> int:
    """Write an artifact's bytes to a file or to stdout. With --json, print what is known of it instead."""

    async def work(client: Client) -> int:
        from runwire.cli.output import ContentOutput, print_json

        if as_json:
            known = {one.n: one for one in await client.artifacts(run_id)}
            if n not in known:
                raise ArtifactNotFound(run_id, n)
            print_json(known[n])
            if output is None:
                return ExitCode.OK
        if output is None:
            out = ContentOutput()
            async for piece in client.artifact(run_id, n):
                out.write(piece)
            out.write(b"", last=True)
        else:
            await _to_file(client, run_id, n, output)
        return ExitCode.OK

    return with_client(url, token, work)


@app.command(epilog=examples("runwire run result 0197a5c2-...", "runwire run result 0197a5c2-... --json | jq .answer"))
def result(*, run_id: RunId, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None) -> int:
    """Print a run's result, which its nodes gave it: JSON."""

    async def work(client: Client) -> int:
        import msgspec

        from runwire.cli.output import ContentOutput, print_json

        value = await client.result(run_id)
        if as_json:
            print_json(value)
        else:
            ContentOutput().write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n", last=True)
        return ExitCode.OK

    return with_client(url, token, work)


@app.command(epilog=examples("runwire run parts 0197a5c2-...", "runwire run parts 0197a5c2-... --json | jq"))
def parts(*, run_id: RunId, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None) -> int:
    """List a run's parts: number, name, media type, state, attempt, size."""

    async def work(client: Client) -> int:
        from runwire.cli.output import print_json

        found = await client.parts(run_id)
        if as_json:
            print_json(found)
        else:
            _print_parts(found)
        return ExitCode.OK

    return with_client(url, token, work)


@app.command(
    epilog=examples(
        "runwire run part 0197a5c2-... 1",
        "runwire run part 0197a5c2-... 1 --follow",
        "runwire run part 0197a5c2-... 1 --json | jq .state",
    )
)
def part(
    *,
    run_id: RunId,
    n: Annotated[int, typer.Argument(min=1, metavar="N", help="The part's number.", show_default=False)],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the part has ended; reconnect when a connection breaks.")
    ] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> int:
    """Write a part's bytes to stdout. With --json, print what is known of it instead.

    With --follow, an attempt that is begun again is told on stderr; its bytes follow those of the one before.
    """

    async def work(client: Client) -> int:
        from runwire.cli.output import ContentOutput, print_json, say

        if as_json:
            known = {one.part: one for one in await client.parts(run_id)}
            if n not in known:
                raise PartNotFound(run_id, n=n)
            print_json(known[n])
            return ExitCode.OK
        out = ContentOutput()
        stream = client.part(run_id, n, live=follow)
        async for piece in stream:
            if piece.reset:
                say(f"part {n} begins again: attempt {piece.attempt}")
            out.write(piece.data)
        out.write(b"", last=True)
        return ExitCode.OK if not follow or stream.state == "sealed" else ExitCode.FAILED

    return with_client(url, token, work)


async def _to_file(client: Client, run_id: str, n: int, output: Path) -> None:
    """Writes beside the file first, so that it is whole or not there. Raises InvalidRequest for one that cannot be."""
    partial = output.with_name(output.name + ".part")
    try:
        with partial.open("wb") as file:  # nobody else waits for this process
            async for piece in client.artifact(run_id, n):
                file.write(piece)
        partial.replace(output)
    except OSError as error:
        raise InvalidRequest(f"--output: {output} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _print_table(found: tuple[Artifact, ...]) -> None:
    from rich.table import Table

    from runwire.cli.output import console

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("N", justify="right")
    for column in ("NAME", "MEDIA TYPE"):
        table.add_column(column, no_wrap=True)
    table.add_column("BYTES", justify="right")
    table.add_column("SHA-256", no_wrap=True)
    for one in found:
        table.add_row(str(one.n), one.name, one.media_type, str(one.size), (one.sha256 or "erased")[:16])
    console().print(table)


def _print_parts(found: tuple[PartInfo, ...]) -> None:
    from rich.table import Table

    from runwire.cli.output import console

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("N", justify="right")
    for column in ("NAME", "MEDIA TYPE", "STATE"):
        table.add_column(column, no_wrap=True)
    for column in ("ATTEMPT", "BYTES"):
        table.add_column(column, justify="right")
    for one in found:
        table.add_row(str(one.part), one.name, one.media_type, one.state, str(one.attempt), str(one.size))
    console().print(table)
