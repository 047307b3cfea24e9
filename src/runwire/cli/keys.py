"""`runwire keys`: API keys for callers of the service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runwire.cli.options import Json, examples
from runwire.errors import ConfigurationError, ExitCode, InvalidRequest

if TYPE_CHECKING:
    from runwire.server.auth.caller import Scope

app = typer.Typer(help="API keys for callers of the service.", rich_markup_mode="rich")


@app.callback()
def _group() -> None:
    """API keys for callers of the service."""


@app.command(
    epilog=examples(
        "runwire keys create --scope runs:start --scope runs:read --name ci",
        "runwire keys create --tenant acme --scope runs:read --expires-days 90 --file keys.txt",
    )
)
def create(
    *,
    scope: Annotated[
        list[str],
        typer.Option(help="A scope of the key: runs:start, runs:read, ...; may be repeated.", show_default=False),
    ],
    tenant: Annotated[str, typer.Option(help="The tenant whose runs the key can see.")] = "default",
    name: Annotated[str, typer.Option(help="A name for the key; one word.")] = "",
    expires_days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days until the key expires; default never.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=r"Append the key's line to this RUNWIRE_KEYS_FILE. \[default: print it]"),
    ] = None,
    as_json: Json = False,
) -> int:
    """Make an API key. The key is printed only once. Give the service the line, which holds the key's hash."""
    from runwire import clock
    from runwire.cli.output import print_json, say
    from runwire.server.auth.keys import new_key

    expires_at = None if expires_days is None else clock.wall_us() // 1_000_000 + expires_days * 86_400
    try:
        key, record = new_key(tenant=tenant, scopes=_scopes(scope), expires_at=expires_at, name=name)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    if file is not None:
        _append(file, record.line)
    if as_json:
        print_json({"key": key, "line": record.line})
        return ExitCode.OK
    typer.echo(key)
    if file is None:
        typer.echo(record.line)
        say("the first line is the key, shown only now; put the second into RUNWIRE_KEYS or RUNWIRE_KEYS_FILE")
    else:
        say(f"the key is shown only now; its line is in {file}")
    return ExitCode.OK


def _scopes(words: list[str]) -> list[Scope]:
    from runwire.server.auth.caller import Scope

    known = [scope.value for scope in Scope]
    if unknown := [word for word in words if word not in known]:
        raise InvalidRequest(f"unknown scope {', '.join(unknown)}; known: {', '.join(known)}")
    return [Scope(word) for word in words]


def _append(file: Path, line: str) -> None:
    try:
        # Hashes are no secrets, but who has what scope in which tenant is nobody's business either.
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w", encoding="utf-8") as lines:
            lines.write(line + "\n")
    except OSError as error:
        raise ConfigurationError((f"{file} cannot be written: {error.strerror}",)) from error
