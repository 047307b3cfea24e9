"""A service on this machine for as long as a demo lasts."""

from __future__ import annotations

import asyncio
import errno
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from runwire.assembly import Assembly
from runwire.cli.demo_settings import demo_folder, demo_settings
from runwire.cli.failures import sentences_of
from runwire.cli.serve import ServiceFailed, fast_loop
from runwire.settings import Settings
from runwire.telemetry.logs import configure_logging


class PortTaken(Exception):  # named by what happened
    """A port was taken between the check and its use."""


def run_demo(body: Callable[[Settings], Awaitable[int]], *, data_dir: Path | None, **settings: Any) -> int:
    """Runs the body with the settings of a demo, and these. Its log goes to a file in the folder of demos."""
    with demo_folder(data_dir) as folder, (folder / "demo.log").open("w", encoding="utf-8") as log:
        configure_logging("info", "json", stream=log)
        with asyncio.Runner(loop_factory=fast_loop()) as runner:
            chosen = demo_settings(folder, **settings)
            try:
                return runner.run(_told(body, chosen))
            except PortTaken:  # somebody took it since it was looked at; any other will do
                return runner.run(_told(body, chosen.model_copy(update={"port": 0, "admin_port": 0})))


async def _told(body: Callable[[Settings], Awaitable[int]], settings: Settings) -> int:
    """SIGTERM ends the demo as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # a coroutine that runs is in a task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await body(settings)


@asynccontextmanager
async def demo_service(settings: Settings) -> AsyncIterator[Assembly]:
    """The service, ready. Raises PortTaken, and ServiceFailed when it cannot listen for another reason."""
    try:
        async with Assembly(settings) as service:
            yield service
    except OSError as error:
        if error.errno == errno.EADDRINUSE and (settings.port or settings.admin_port):
            raise PortTaken from error
        raise ServiceFailed(sentences_of(error)[0]) from error
