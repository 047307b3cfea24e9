"""`runwire ops`: the files that watch a runwire, rendered from one file of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
        """runwire ops render --out rules --by cluster,namespace --selector 'job="runwire"'""",
        "runwire ops render --out rules --severity-map page=critical,ticket=warning --runbook-url https://wiki/runwire",
        "runwire ops render --out rules --format prometheusrule --label release=prometheus",
        "runwire ops render --out rules --receiver page=pagerduty:/run/secrets/pagerduty",
    )
)
def render(
    *,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help=r"The source tree: it holds alerts/thresholds.yaml. \[default: here, else what is installed]",
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if a file would change.")] = False,
    scale: Annotated[float, typer.Option(min=1.0, metavar="N", help="Divide every duration by N, for drills.")] = 1.0,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Render elsewhere, without the runbook.")] = None,
    webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="URL to which Alertmanager sends its messages.")
    ] = None,
    receiver: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=KIND:FILE",
            help="page, ticket or watchdog by pagerduty, opsgenie, slack or webhook; FILE has the secret. Repeatable.",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="LABEL,...", help="Labels that tell deployments apart: kept in every aggregation."),
    ] = None,
    selector: Annotated[
        str | None, typer.Option(metavar="MATCHERS", help='Matchers for every series, such as job="runwire".')
    ] = None,
    severity_map: Annotated[
        str | None,
        typer.Option(
            metavar="OURS=YOURS,...", help="Names of severities: page, critical, warning, or ticket for both."
        ),
    ] = None,
    runbook_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Page to which alerts and panels link, as #name.")
    ] = None,
    format_: Annotated[
        Literal["files", "prometheusrule"],
        typer.Option(
            "--format",
            metavar="files|prometheusrule",
            help="Files for Prometheus, or an object for the Prometheus Operator.",
        ),
    ] = "files",
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A label of the PrometheusRule; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Render alerts/*.yaml, dashboards/*.json and the runbook's tables."""
    from runwire.cli.output import print_json, say

    try:
        from runwire.ops.kubernetes import labels_of
        from runwire.ops.receivers import receivers_of
        from runwire.ops.render import Format, Target
        from runwire.ops.render import render as render_files
        from runwire.ops.scope import scope_of
    except ModuleNotFoundError as error:
        raise ConfigurationError((f'{error.name} is not installed: pip install "runwire[ops]"',)) from None
    given: dict[str, object] = {
        "--by": by,
        "--selector": selector,
        "--severity-map": severity_map,
        "--runbook-url": runbook_url,
    }
    given |= {"--receiver": receiver, "--label": label, "--format": None if format_ == "files" else format_}
    if out is None and (elsewhere := [name for name, value in given.items() if value]):
        raise ConfigurationError((f"{', '.join(elsewhere)}: name a folder with --out; the tree has the defaults",))
    target = Target(
        scope=scope_of(by=by, selector=selector, severity_map=severity_map),
        format=Format(format_),
        labels=labels_of(label or ()),
        runbook_url=runbook_url.rstrip("/") if runbook_url is not None else None,
        webhook=webhook,
        receivers=receivers_of(receiver or ()),
    )
    drifts = render_files(_tree(root, elsewhere=out is not None), check=check, scale=scale, out=out, target=target)
    if as_json:
        print_json([{"path": str(drift.path), "change": drift.change.value} for drift in drifts])
    for drift in drifts:
        say(f"{drift.path}: {drift.change.value}" if check else f"{drift.path}: written")
    return ExitCode.FAILED if check and drifts else ExitCode.OK


def _tree(root: Path | None, *, elsewhere: bool) -> Path | None:
    """The source tree to read, or None for the installed package: it will do where nothing is written to the tree."""
    here = Path()
    if root is None and elsewhere and not (here / "alerts" / "thresholds.yaml").is_file():
        return None
    return root or here
