"""`runwire ops`: the files that watch a runwire, rendered from one file of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runwire.cli.options import Json, examples
from runwire.errors import ConfigurationError, ExitCode

app = typer.Typer(
    help="Alerts, dashboards and the runbook's tables, from alerts/thresholds.yaml.", rich_markup_mode="rich"
)


@app.callback()
def _group() -> None:
    """Alerts, dashboards and the runbook's tables, from alerts/thresholds.yaml."""


@app.command(
    epilog=examples(
        "runwire ops render",
        "runwire ops render --check",
        "runwire ops render --scale 60 --out /tmp/drill --webhook http://127.0.0.1:9000/",
    )
)
def render(
    *,
    root: Annotated[
        Path, typer.Option(metavar="DIR", help="The source tree: it holds alerts/thresholds.yaml.")
    ] = Path(),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if a file would change.")] = False,
    scale: Annotated[float, typer.Option(min=1.0, metavar="N", help="Divide every duration by N, for drills.")] = 1.0,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Render elsewhere, without the runbook.")] = None,
    webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="URL to which Alertmanager sends its messages.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Render alerts/*.yaml, dashboards/*.json and the runbook's tables."""
    from runwire.cli.output import print_json, say

    try:
        from runwire.ops.render import render as render_files
    except ModuleNotFoundError as error:
        raise ConfigurationError((f'{error.name} is not installed: pip install "runwire[ops]"',)) from None
    drifts = render_files(root, check=check, scale=scale, out=out, webhook=webhook)
    if as_json:
        print_json([{"path": str(drift.path), "change": drift.change.value} for drift in drifts])
    for drift in drifts:
        say(f"{drift.path}: {drift.change.value}" if check else f"{drift.path}: written")
    return ExitCode.FAILED if check and drifts else ExitCode.OK
