"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Url = Annotated[
    str,
    typer.Option("--url", envvar="RUNWIRE_URL", help="URL of the service.", rich_help_panel="Service"),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="RUNWIRE_TOKEN",
        help="Token or API key, if the service requires one.",
        rich_help_panel="Service",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
RunId = Annotated[str, typer.Argument(metavar="ID", help="The run's id.", show_default=False)]

DEFAULT_URL = "http://127.0.0.1:8080"


def examples(*lines: str) -> str:
    """An epilog: each line a command as it would be typed."""
    return "Examples:\n\n" + "\n\n".join(f"[cyan]$ {line}[/]" for line in lines)
