"""`runwire run artifacts`, `artifact` and `result`: what users see of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runwire.cli import run
from runwire.cli.options import DEFAULT_URL, Json, RunId, Token, Url, examples
from runwire.cli.run import with_client
from runwire.errors import ArtifactNotFound, ExitCode, InvalidRequest

if TYPE_CHECKING:
    from runwire.client import Artifact, Client


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
        from runwire.cli.output import print_json

        if as_json:
            known = {one.n: one for one in await client.artifacts(run_id)}
            if n not in known:
                raise ArtifactNotFound(run_id, n)
            print_json(known[n])
            if output is None:
                return ExitCode.OK
        if output is None:
            async for piece in client.artifact(run_id, n):
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        else:
            await _to_file(client, run_id, n, output)
        return ExitCode.OK

    return with_client(url, token, work)


@app.command(epilog=examples("runwire run result 0197a5c2-...", "runwire run result 0197a5c2-... --json | jq .answer"))
def result(*, run_id: RunId, as_json: Json = False, url: Url = DEFAULT_URL, token: Token = None) -> int:
    """Print a run's result, which its nodes gave it: JSON."""

    async def work(client: Client) -> int:
        import msgspec

        from runwire.cli.output import print_json

        value = await client.result(run_id)
        if as_json:
            print_json(value)
        else:
            typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
        return ExitCode.OK

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
