"""`runwire demo`: runs the whole pipeline on this machine to explore a web site, and prints the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from runwire.cli import demo_chat
from runwire.cli.options import Json, examples

if TYPE_CHECKING:
    from runwire.client import Client, RunStream, StartedRun
    from runwire.settings import Settings

EPILOG: Final = (
    examples(
        "runwire demo",
        "runwire demo --site https://example.com --keep",
        "runwire demo --json | tail -1",
        "runwire demo chat",
    )
    + "\n\nStarts the service on an embedded PostgreSQL of its own (DATABASE_URL is left alone), on ports 8080 and "
    "9464 or free ones, and runs the agent explore on the site, or on the documentation the service brings along. "
    "Every run is traced; OTEL_EXPORTER_OTLP_ENDPOINT says where to. With --json: a line with the URLs, a line for "
    "each event, a line with the summary."
)


app = typer.Typer(invoke_without_command=True)
app.command("chat", epilog=demo_chat.EPILOG)(demo_chat.demo_chat)


@app.callback()
def demo(
    context: typer.Context,
    *,
    site: Annotated[str | None, typer.Option(metavar="URL", help="The site to explore; stays on its origin.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the service running afterwards, until Ctrl-C.")] = False,
    data_dir: Annotated[Path | None, typer.Option(help=r"Data directory. \[default: a folder for demos]")] = None,
    as_json: Json = False,
) -> int:
    """Explore a web site, watch the events arrive, and print the site map and the lag."""
    if context.invoked_subcommand is not None:
        if site is not None or keep or data_dir is not None or as_json:
            raise typer.BadParameter(f"options of `demo {context.invoked_subcommand}` come after its name")
        return 0
    from runwire.cli.demo_service import run_demo

    async def body(settings: Settings) -> int:
        return await _demo(settings, site=site, keep=keep, as_json=as_json)

    return run_demo(body, data_dir=data_dir)


async def _demo(settings: Settings, *, site: str | None, keep: bool, as_json: bool) -> int:
    from runwire.cli.demo_service import demo_service
    from runwire.cli.output import console, print_urls, say
    from runwire.cli.serve import stop_on_signals
    from runwire.client import Client

    if not as_json:
        say("starting PostgreSQL and the service ...")
    async with demo_service(settings) as service, Client(service.url) as client:
        explored = site or f"{service.url}/docs/"
        run = await client.start("explore", input={"site": explored})
        urls = {
            "site": explored,
            "service": service.url,
            "run": f"{service.url}/api/agents/runs/{run.run_id}",
            "stream": f"{service.url}/api/agents/runs/{run.run_id}/stream",
            "metrics": f"{service.admin_url}/metrics",
            "logs": str(settings.data_dir / "demo.log"),
        }
        print_urls(urls, as_json=as_json)
        if not as_json:
            console().print()
        code = await _watched(client, run, as_json=as_json)
        if keep:
            stop_on_signals(service)
            say(f"the service runs on at {service.url}, metrics at {service.admin_url}/metrics; Ctrl-C stops it")
            await service.run_until_stopped()
        elif not as_json:
            say("the service stops with this demo; `runwire demo --keep` keeps it running")
        return code


async def _watched(client: Client, run: StartedRun, *, as_json: bool) -> int:
    """Follows the run and prints its result."""
    from runwire import clock
    from runwire.agents.explore import summary
    from runwire.cli.follow import follow
    from runwire.cli.output import console, print_json
    from runwire.cli.site_map import as_objects, print_site
    from runwire.model.event import Event

    lags_ms: list[float] = []

    def arrived(event: Event) -> None:
        lags_ms.append(max(clock.wall_us() / 1000 - event.ts, 0.0))

    stream = client.stream(run)
    code = await follow(stream, as_json=as_json, on_event=arrived)
    stored = await client.state(run)
    graph = summary(stored.state) if stored.state else None
    lag = {"p50": _quantile(lags_ms, 0.5), "p99": _quantile(lags_ms, 0.99)}
    if as_json:
        site = as_objects(graph) if graph is not None else None
        print_json({"summary": {"outcome": _state(stream), "events": len(lags_ms), "lagMs": lag, "site": site}})
        return code
    out = console()
    out.print()
    if graph is not None:
        print_site(out, graph)
    out.print(
        f"[bold]lag[/] p50 {lag['p50']:.1f} ms, p99 {lag['p99']:.1f} ms over {len(lags_ms)} events: from the append to "
        "this client, whole, as the client measured it (timestamps are whole milliseconds)",
        soft_wrap=True,
    )
    return code


def _state(stream: RunStream) -> str:
    return stream.end.state.value if stream.end is not None else "unknown"


def _quantile(values: list[float], share: float) -> float:
    """The nearest-rank quantile; 0 for no values."""
    ordered = sorted(values)
    return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)], 1) if ordered else 0.0
