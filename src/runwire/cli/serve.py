"""`runwire serve`: the service, until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from runwire.cli.failures import sentences_of
from runwire.cli.options import examples
from runwire.errors import ExitCode, RunwireError

if TYPE_CHECKING:
    from runwire.assembly import Assembly
    from runwire.cli.heartbeat import Phase
    from runwire.settings import Settings

EPILOG: Final = (
    examples(
        "runwire serve",
        "runwire serve --port 0 --admin-port 0 --data-dir ./data",
        "runwire serve --agents shop.agents:triage --agents shop.agents:refund",
        "DATABASE_URL=postgresql://... runwire serve --role api",
        "DATABASE_URL=postgresql://... runwire serve --role api --processes 8",
    )
    + "\n\nEvery setting is also an environment variable, RUNWIRE_ and its name, e.g. RUNWIRE_LOG_LEVEL=debug. "
    "Flags win. DATABASE_URL names the PostgreSQL; without it an embedded one is started in the data directory. "
    "SIGTERM or Ctrl-C drains and ends with 0; a second Ctrl-C ends at once."
)


class ServiceFailed(RunwireError):
    """The service could not listen, or could not go on."""

    code = "service_failed"


def serve(
    *,
    host: Annotated[str | None, typer.Option(help=r"Address of the API. \[default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help=r"Port of the API; 0 takes a free one. \[default: 8080]")] = None,
    admin_port: Annotated[
        int | None,
        typer.Option(help=r"Port of health and metrics; 0 takes a free one. \[default: 9464]"),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Data directory of the embedded PostgreSQL.")] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(help=r"api, worker, publisher, observer, archiver, collector; repeatable. \[default: all]"),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help=r"Processes that share the API port; one per core. \[default: 1]")
    ] = None,
    agents: Annotated[
        list[str] | None, typer.Option(metavar="MODULE:OBJECT", help="A further agent; may be repeated.")
    ] = None,
) -> int:
    """Run the service: API, workers and publisher in one process, or some of them."""
    from runwire.cli import environment, say_failure
    from runwire.cli.process_check import take_descriptors
    from runwire.cli.service_loop import run_service
    from runwire.cli.standard_streams import queue_standard_output
    from runwire.settings import load_settings
    from runwire.telemetry.logs import LogEvent, configure_logging, count_dropped_line, get_logger

    settings = load_settings(
        host=host,
        port=port,
        admin_port=admin_port,
        data_dir=data_dir,
        roles=tuple(role) if role else None,
        processes=processes,
        agents=tuple(agents) if agents else None,
    )
    queue_standard_output(dropped=count_dropped_line)
    configure_logging(settings.log_level, settings.log_format)
    for name in environment.ignored:
        get_logger().warning(LogEvent.SETTING_IGNORED, name=name)
    take_descriptors()
    service = _serve(settings) if settings.processes == 1 else _serve_several(settings)
    try:
        return run_service(service, loop_factory=fast_loop(), failed=say_failure)
    except SystemExit as error:  # nothing here raises it: whatever did was no success
        raise ServiceFailed("code in this process ended it with sys.exit") from error


async def _serve_several(settings: Settings) -> int:
    from runwire.cli.supervisor import supervise

    try:
        return await supervise(settings)
    except OSError as error:
        raise ServiceFailed(sentences_of(error)[0]) from error


async def _serve(settings: Settings) -> int:
    from runwire.assembly import Assembly, StoppedEarly
    from runwire.cli.heartbeat import beat
    from runwire.cli.supervisor import end_with_supervisor
    from runwire.db.health import check_reachable

    service = Assembly(settings)
    stop_on_signals(service)
    end_with_supervisor()
    beating = asyncio.create_task(beat(lambda: _phase_of(service)), name="heartbeat")
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, service.reload)
    for url in {settings.database_url, settings.database_direct_url}:
        if url is not None:
            await check_reachable(url)
    try:
        async with service:
            spare_garbage_collector()
            await service.run_until_stopped()
    except StoppedEarly:
        return ExitCode.OK
    except OSError as error:
        raise ServiceFailed(sentences_of(error)[0]) from error
    finally:
        beating.cancel()
    return ExitCode.OK


def _phase_of(service: Assembly) -> Phase | None:
    """None while the service imports its agents, which may take long, and keeps the event loop for itself."""
    from runwire.cli.heartbeat import Phase

    if service.stopping:
        return Phase.DRAINING
    if service.started:
        return Phase.SERVING
    if not service.has_agents:
        return None
    return Phase.MIGRATING if service.migrating else Phase.STARTING


def spare_garbage_collector() -> None:
    """Takes all loaded modules out of the garbage collector's work, because they stay for good.

    A full collection stops everything, for 50 ms after the start and for longer with every stream. Only cycles that
    outlive two younger collections remain; they are few, so the collector waits until there are many.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_000, 10, 500)


def stop_on_signals(service: Any) -> None:
    """SIGTERM and SIGINT stop the service; a second SIGINT ends this process at once."""
    loop = asyncio.get_running_loop()
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        if interrupted:
            os._exit(ExitCode.INTERRUPTED)
        interrupted = True
        service.stop()

    loop.add_signal_handler(signal.SIGTERM, service.stop)
    loop.add_signal_handler(signal.SIGINT, interrupt)


def fast_loop() -> Any:
    """uvloop's loop factory where it is installed, else None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
