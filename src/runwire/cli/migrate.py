"""`runwire migrate`: bring the database up to this version. `serve` does the same when it starts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from runwire.cli.failures import ExitCode
from runwire.cli.options import Json, examples

if TYPE_CHECKING:
    from runwire.settings import Settings

EPILOG: Final = examples("runwire migrate", "DATABASE_URL=postgresql://... runwire migrate --check")


def migrate(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 if something is pending.")
    ] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Where the embedded PostgreSQL keeps its data.")] = None,
    as_json: Json = False,
) -> int:
    """Apply the migrations the database lacks."""
    from runwire.settings import load_settings

    return asyncio.run(_migrate(load_settings(data_dir=data_dir), check=check, as_json=as_json))


async def _migrate(settings: Settings, *, check: bool, as_json: bool) -> int:
    from runwire.cli.database import database_of
    from runwire.cli.output import print_json
    from runwire.db.health import pending_migrations
    from runwire.db.migrate import migrate as apply

    async with database_of(settings) as dsn:
        pending = await pending_migrations(dsn)
        applied = () if check or not pending else await apply(dsn)
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
