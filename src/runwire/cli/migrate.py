"""`runwire migrate`: bring the database up to this version. `serve` does the same when it starts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from runwire.cli.options import Json, examples
from runwire.errors import ExitCode

if TYPE_CHECKING:
    from runwire.settings import Settings

EPILOG: Final = examples(
    "runwire migrate",
    "DATABASE_URL=postgresql://... runwire migrate --check",
    "DATABASE_URL=postgresql://owner@... runwire migrate --serve-as serving",
)


def migrate(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 if a migration is pending.")
    ] = False,
    days: Annotated[
        int | None,
        typer.Option(min=0, max=90, metavar="N", help="Also create the event partitions of the next N days."),
    ] = None,
    serve_as: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE", help="Grant this PostgreSQL role all that serving needs, but no change of the schema."
        ),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Data directory of the embedded PostgreSQL.")] = None,
    as_json: Json = False,
) -> int:
    """Apply the migrations the database lacks."""
    from runwire.errors import InvalidRequest
    from runwire.settings import load_settings

    if check and (days is not None or serve_as is not None):
        raise InvalidRequest("--check changes nothing: leave out --days and --serve-as")
    settings = load_settings(data_dir=data_dir)
    return asyncio.run(_migrate(settings, check=check, days=days, serve_as=serve_as, as_json=as_json))


async def _migrate(settings: Settings, *, check: bool, days: int | None, serve_as: str | None, as_json: bool) -> int:
    from runwire.cli.database import database_of
    from runwire.cli.output import print_json
    from runwire.db.grants import let_serve, make_days
    from runwire.db.health import pending_migrations
    from runwire.db.migrate import migrate as apply

    async with database_of(settings) as dsn:
        pending = await pending_migrations(dsn)
        applied = () if check or not pending else await apply(dsn)
        if days is not None:
            await make_days(dsn, ahead=days)
        if serve_as is not None:
            await let_serve(dsn, role=serve_as)
    left = [name for name in pending if name not in applied]
    if as_json:
        print_json({"applied": applied, "pending": left})
    else:
        for name in applied:
            typer.echo(f"applied {name}")
        for name in left:
            typer.echo(f"pending {name}")
        if not applied and not left:
            typer.echo("up to date")
    return ExitCode.FAILED if left else ExitCode.OK
