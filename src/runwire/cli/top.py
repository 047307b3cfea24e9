"""`runwire top`: the processes, agents and backlog of a service, live in the terminal."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from runwire.cli.options import Json, examples
from runwire.errors import DatabaseFailed, ExitCode

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from runwire.cli.top_metrics import Listener
    from runwire.observe.overview import Overview
    from runwire.settings import Settings

EPILOG: Final = (
    examples(
        "DATABASE_URL=postgresql://... runwire top",
        "runwire top --metrics http://host-a:9464 --metrics http://host-b:9464",
        "runwire top --once",
        "runwire top --once --json | jq '.agents[] | select(.workers == 0)'",
    )
    + "\n\nIt only reads. The database is that of `runwire serve`. Ctrl-C ends it. Where the output is not a terminal, "
    "it prints one table, or with --json a line for each look."
)


def top(
    *,
    every: Annotated[
        float, typer.Option(min=0.2, max=3600.0, metavar="S", help="Seconds from one look to the next.")
    ] = 2.0,
    metrics: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="An admin listener, for rates and lags; may be repeated."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once, print, and end.")] = False,
    as_json: Json = False,
    data_dir: Annotated[Path | None, typer.Option(help="Data directory of the embedded PostgreSQL.")] = None,
) -> int:
    """Watch a service across its processes: roles, heartbeats, runs by agent, backlog, streams."""
    from runwire.cli.top_metrics import Listeners
    from runwire.settings import load_settings
    from runwire.telemetry.logs import configure_logging

    configure_logging("error", "console", stream=sys.stderr)
    settings = load_settings(data_dir=data_dir)
    listeners = Listeners(metrics or ())
    only_one = once or not (as_json or sys.stdout.isatty())
    return asyncio.run(_watch(settings, listeners, every_s=every, once=only_one, as_json=as_json))


async def _watch(settings: Settings, listeners: Any, *, every_s: float, once: bool, as_json: bool) -> int:
    from runwire.cli.database import database_of
    from runwire.cli.output import console, harmless
    from runwire.db import Database
    from runwire.observe.overview import overview

    async with (
        database_of(settings) as dsn,
        Database(dsn, pool_size=1, timeout_s=settings.db_timeout_s, name="top") as database,
    ):
        if once or as_json:
            while True:
                _print(await overview(database), await listeners.look(), as_json=as_json)
                if once:
                    return ExitCode.OK
                await asyncio.sleep(every_s)
        from rich.live import Live
        from rich.text import Text

        shown: RenderableType
        with Live(console=console(), screen=True, auto_refresh=False) as live:
            while True:
                try:
                    shown = drawn(await overview(database), await listeners.look())
                except DatabaseFailed as error:  # it may be back at the next look
                    shown = Text(harmless(str(error)), style="bold red")
                live.update(shown, refresh=True)
                await asyncio.sleep(every_s)


def _print(seen: Overview, listeners: Sequence[Listener], *, as_json: bool) -> None:
    from runwire.cli.output import console, print_json

    if not as_json:
        console().print(drawn(seen, listeners))
        return
    import msgspec

    print_json({**msgspec.to_builtins(seen), "listeners": msgspec.to_builtins([_finite(one) for one in listeners])})


def _finite(one: Listener) -> dict[str, Any]:
    """JSON has no infinity."""
    import msgspec

    lag = one.lag_p95_s
    return {**msgspec.to_builtins(one), "lag_p95_s": None if lag is None or math.isinf(lag) else lag}


def drawn(seen: Overview, listeners: Sequence[Listener]) -> RenderableType:
    """The tables, as a terminal shows them."""
    from rich.console import Group
    from rich.text import Text

    alive = sum(one.alive for one in seen.processes)
    head = Text.assemble(
        ("runwire  ", "bold"),
        f"{alive} of {len(seen.processes)} processes alive   ",
        (f"{seen.backlog_events} events unpublished", "red" if (seen.backlog_s or 0) > 1 else ""),
        f", the oldest for {_age(seen.backlog_s)}   " if seen.backlog_s is not None else "   ",
        (f"{seen.publishers} publishers", "" if seen.publishers else "bold red"),
        f", heard of {_age(seen.publisher_s)} ago   " if seen.publisher_s is not None else "   ",
        (f"{seen.timers_overdue} timers overdue   ", "red" if seen.timers_overdue else ""),
        f"{seen.signals_waiting} signals not taken",
    )
    parts: list[RenderableType] = [head, "", _processes(seen), "", _agents(seen)]
    if listeners:
        parts += ["", _listeners(listeners)]
    return Group(*parts)


def _processes(seen: Overview) -> RenderableType:
    table = _table("PROCESS", "ROLES", "VERSION", numbers=("UP", "SEEN", "RUNS", "SLOTS", "AGENTS", "STREAMS"))
    for one in seen.processes:
        table.add_row(
            _text(f"{one.host}:{one.pid}"),
            _text(",".join(one.roles) + (f"  failing: {one.failing}" if one.failing else "")),
            _text(one.version),
            _age(one.up_s),
            _age(one.seen_s),
            str(one.walking) if one.slots else "",
            str(one.slots) if one.slots else "",
            str(one.agents),
            str(one.streams) if "api" in one.roles else "",
            style="" if one.alive else "red",
        )
    return table


def _agents(seen: Overview) -> RenderableType:
    table = _table("AGENT", numbers=("PENDING", "STARTED", "WAITING", "UNCLAIMED", "OLDEST", "WORKERS"))
    for one in seen.agents:
        counts = (one.pending, one.started, one.waiting, one.unclaimed)
        table.add_row(
            _text(one.agent),
            *map(str, counts),
            _age(one.oldest_s),
            str(one.workers),
            style="red" if one.unclaimed and not one.workers else "",
        )
    return table


def _listeners(listeners: Sequence[Listener]) -> RenderableType:
    from runwire.cli.top_metrics import STAGES

    table = _table("LISTENER", numbers=("APPENDED/S", "PUBLISHED/S", "DELIVERED/S", "LAG P95", "STREAMS"))
    for one in listeners:
        if one.problem is not None:
            table.add_row(_text(one.url), _text(one.problem), style="red")
            continue
        rates = [f"{one.rates[name]:.1f}" if name in one.rates else "" for name in STAGES]
        lag = one.lag_p95_s
        shown = "" if lag is None else "> 30 s" if math.isinf(lag) else f"<= {lag * 1000:g} ms"
        table.add_row(_text(one.url), *rates, shown, str(one.streams))
    return table


def _table(*texts: str, numbers: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in texts:
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    for column in numbers:
        table.add_column(column, no_wrap=True, justify="right")
    return table


def _text(said: str) -> Any:
    """Names from the database, which must not command a terminal."""
    from rich.text import Text

    from runwire.cli.output import harmless

    return Text(harmless(said))


def _age(seconds: float | None) -> str:
    """`7 s`, `3 m`, `2 h`, `4 d`."""
    if seconds is None:
        return ""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0.0):.1f} s" if seconds < 10 else f"{seconds:.0f} s"
