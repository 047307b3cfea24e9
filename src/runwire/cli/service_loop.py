"""The event loop of a service: only the service ends it, whatever code of its agents does in it.

asyncio passes SystemExit and KeyboardInterrupt on through `run_forever`, from the task or callback that raised it, and
whoever runs the loop sees the process end. Nodes are contained where they are called; what they leave running is not: a
task, a timer, a callback. Here the loop goes on after it.

When the service is over, what is left of its agents has `GRACE_S` to end. A task that swallows its cancellation and a
thread that hangs would otherwise keep the process for ever.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from runwire.telemetry.logs import LogEvent, get_logger
from runwire.telemetry.strays import tell_of_strays

GRACE_S: Final = 2.0
_log = get_logger()


def run_service(
    service: Coroutine[Any, Any, int],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
    failed: Callable[[Exception], int],
) -> int:
    """Runs the service and returns its result. Ends the process itself when a part of its agents does not end.

    `failed` says what the service raised, and returns the exit code for it: there may be no way back to the caller.
    """
    others = set(threading.enumerate())
    loop = loop_factory() if loop_factory is not None else asyncio.new_event_loop()
    threads = ThreadPoolExecutor(thread_name_prefix="asyncio")
    loop.set_default_executor(threads)
    asyncio.set_event_loop(loop)
    tell_of_strays(loop)
    try:
        code: int = _run_on(loop, loop.create_task(service, name="service"))
    except Exception as error:  # noqa: BLE001  # said to the caller's user
        code = failed(error)
    finally:
        ended = _wind_up(loop)
        threads.shutdown(wait=False, cancel_futures=True)
        asyncio.set_event_loop(None)
    if not (ended and _threads_end(others)):
        atexit._run_exitfuncs()  # noqa: SLF001  # what is queued for standard output is written; then there is no way back
        os._exit(code)
    return code


def _run_on(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> Any:
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            if interrupted and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                raise  # Ctrl-C, before the service has said what that does
            if task.done():
                raise
            _log.error(LogEvent.TASK_FAILED, task="of an agent", exc_info=error)


def _wind_up(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether all tasks have ended."""

    async def end_all() -> bool:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE_S)
        return all(task.done() for task in tasks)

    try:
        ended: bool = _run_on(loop, loop.create_task(end_all(), name="wind up"))
        if ended:
            _run_on(loop, loop.create_task(loop.shutdown_asyncgens(), name="wind up"))
    finally:
        loop.close()
    return ended


def _threads_end(others: set[threading.Thread]) -> bool:
    """Whether no thread is left that the interpreter would wait for, besides those that are none of the service's."""
    for thread in threading.enumerate():
        if thread not in others and not thread.daemon:
            thread.join(GRACE_S)
            if thread.is_alive():
                return False
    return True
