"""`runwire demo`: runs the whole pipeline on this machine to explore a web site, and prints the result."""

from __future__ import annotations

import asyncio
import errno
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from runwire.cli.failures import sentences_of
from runwire.cli.options import Json, examples

if TYPE_CHECKING:
    from runwire.client import Client, RunStream, StartedRun
    from runwire.settings import Settings

EPILOG: Final = (
    examples("runwire demo", "runwire demo --site https://example.com --keep", "runwire demo --json | tail -1")
    + "\n\nStarts the service on an embedded PostgreSQL of its own (DATABASE_URL is left alone), on ports 8080 and "
    "9464 or free ones, and runs the agent explore on the site, or on the documentation the service brings along. "
    "Every run is traced; OTEL_EXPORTER_OTLP_ENDPOINT says where to. With --json: a line with the URLs, a line for "
    "each event, a line with the summary."
)


def demo(
    *,
    site: Annotated[str | None, typer.Option(metavar="URL", help="The site to explore; stays on its origin.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the service running afterwards, until Ctrl-C.")] = False,
    data_dir: Annotated[Path | None, typer.Option(help=r"Data directory. \[default: a folder for demos]")] = None,
    as_json: Json = False,
) -> int:
    """Explore a web site, watch the events arrive, and print the site map and the lag."""
    from runwire.cli.demo_settings import demo_folder, demo_settings
    from runwire.cli.serve import fast_loop
    from runwire.telemetry.logs import configure_logging

    with demo_folder(data_dir) as folder, (folder / "demo.log").open("w", encoding="utf-8") as log:
        configure_logging("info", "json", stream=log)
        with asyncio.Runner(loop_factory=fast_loop()) as runner:
            settings = demo_settings(folder)
            try:
                return runner.run(_demo(settings, site=site, keep=keep, as_json=as_json))
            except PortTaken:  # somebody took it since it was looked at; any other will do
                settings = settings.model_copy(update={"port": 0, "admin_port": 0})
                return runner.run(_demo(settings, site=site, keep=keep, as_json=as_json))


class PortTaken(Exception):  # named by what happened
    """A port was taken between the check and its use."""


async def _demo(settings: Settings, *, site: str | None, keep: bool, as_json: bool) -> int:
    from runwire.assembly import Assembly
    from runwire.cli.output import console, print_json, say
    from runwire.cli.serve import ServiceFailed, stop_on_signals
    from runwire.client import Client

    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # a coroutine that runs is in a task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    if not as_json:
        say("starting PostgreSQL and the service ...")
    try:
        async with Assembly(settings) as service, Client(service.url) as client:
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
            if as_json:
                print_json({"urls": urls})
            else:
                out = console()
                for name, url in urls.items():
                    out.print(f"[dim]{name:>8}[/]  {url}", soft_wrap=True)
                out.print()
            code = await _watched(client, run, as_json=as_json)
            if keep:
                stop_on_signals(service)
                say(f"the service runs on at {service.url}, metrics at {service.admin_url}/metrics; Ctrl-C stops it")
                await service.run_until_stopped()
            elif not as_json:
                say("the service stops with this demo; `runwire demo --keep` keeps it running")
            return code
    except OSError as error:
        if error.errno == errno.EADDRINUSE and (settings.port or settings.admin_port):
            raise PortTaken from error
        raise ServiceFailed(sentences_of(error)[0]) from error


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
