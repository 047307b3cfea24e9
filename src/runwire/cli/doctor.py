"""`runwire doctor`: checks an installation and says how to mend it."""

from __future__ import annotations

import asyncio
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from runwire.cli.options import Json, Token, examples
from runwire.errors import ExitCode

if TYPE_CHECKING:
    from runwire.db.health import Finding
    from runwire.settings import Settings

EPILOG: Final = (
    examples(
        "runwire doctor",
        "runwire doctor https://runs.example.com",
        "DATABASE_URL=postgresql://... runwire doctor https://runs.example.com --json",
    )
    + "\n\nWith a URL it starts a run of the agent golden there and watches it through whatever proxies are in "
    "between. This installation and the database are looked at when DATABASE_URL names one, "
    "or when no URL is given."
)


def doctor(
    *,
    url: Annotated[str | None, typer.Argument(help="URL of a service to check, as its users reach it.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Data directory of the embedded PostgreSQL.")] = None,
    as_json: Json = False,
    token: Token = None,
) -> int:
    """Check this installation, the database and the path to a service. Exit with 1 if a check fails."""
    from runwire.settings import load_settings

    settings = load_settings(data_dir=data_dir)
    findings = asyncio.run(_examine(settings, url=url, token=token))
    if as_json:
        from runwire.cli.output import print_json

        ok = all(finding.ok for finding in findings)
        print_json({"ok": ok, "checks": findings})
    else:
        _print(findings)
    return ExitCode.OK if all(finding.ok for finding in findings) else ExitCode.FAILED


async def _examine(settings: Settings, *, url: str | None, token: str | None) -> list[Finding]:
    from runwire.bus.kinds import KINDS
    from runwire.cli.database import database_of
    from runwire.cli.process_check import examine_process
    from runwire.cli.proxy_check import examine_url
    from runwire.db.health import Finding, examine, examine_pooler
    from runwire.errors import EmbeddedPostgresError

    findings: list[Finding] = []
    if settings.database_url is not None or url is None:
        findings.append(examine_process())
        try:
            async with database_of(settings) as dsn:
                findings += await examine(dsn)
            if settings.database_direct_url is not None and settings.database_url is not None:
                findings.append(await examine_pooler(settings.database_url))
        except EmbeddedPostgresError as error:
            remedy = "install runwire[embedded], or set DATABASE_URL"
            findings.append(Finding("database", ok=False, seen=str(error), remedy=remedy))
        from runwire.cli.content_check import examine_content

        findings += await examine_content(settings)
    name = settings.bus_name
    if (examiner := KINDS[name].examiner) is not None:
        try:
            findings += await import_module(examiner).examine_bus(settings)
        except ImportError:
            seen, remedy = f"the client of the bus {name} is not installed", f"install runwire[{name}]"
            findings.append(Finding("bus", ok=False, seen=seen, remedy=remedy))
    if url is not None:
        findings += await examine_url(url, token=token)
    return findings


def _print(findings: list[Finding]) -> None:
    from rich.markup import escape

    from runwire.cli.output import console

    out = console()
    for finding in findings:
        mark = "[green]ok  [/]" if finding.ok else "[bold red]FAIL[/]"
        out.print(f"{mark} [bold]{finding.check:<14}[/] {escape(finding.seen)}", soft_wrap=True)
        if finding.remedy:
            out.print(f"     {'':<14} -> {escape(finding.remedy)}", soft_wrap=True)
