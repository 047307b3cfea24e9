"""The loops of a process: one that raises is told, counted and begun again; none of them ends the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from runwire.clock import monotonic, pause_s
from runwire.db import Troubles
from runwire.duties import Duty
from runwire.telemetry.logs import LogEvent, get_logger

AGAIN_FIRST_S: Final = 0.2
AGAIN_MAX_S: Final = 10.0
STEADY_S: Final = 5.0
"""A loop that has run for so long since it was begun again is well."""

_log = get_logger()


class Supervision:
    """`keep` runs a loop until it is cancelled, or returns because its work is done.

    running --raises--> resting, in trouble --pause--> running --5 s--> well
    """

    def __init__(self, troubles: Troubles, *, restarted: Callable[[], None]) -> None:
        """`restarted` is called for each loop that is to be begun again."""
        self._troubles = troubles
        self._restarted = restarted

    async def keep(self, duty: Duty, loop: Callable[[], Awaitable[None]], *, name: str) -> None:
        """`loop` makes the loop anew each time. `name` tells loops of one duty from each other."""
        failures = 0
        while True:
            began = monotonic()
            steady = asyncio.get_running_loop().call_later(STEADY_S, self._well, duty, name)
            try:
                await loop()
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                why: BaseException = error  # something inside was cancelled: this loop was not asked to end
            except (Exception, SystemExit, BaseExceptionGroup) as error:  # noqa: BLE001  # the others go on, and so does it
                why = error
            else:
                self._well(duty, name)
                return
            finally:
                steady.cancel()
            failures = 1 if monotonic() - began >= STEADY_S else failures + 1
            again_in_s = pause_s(failures, first_s=AGAIN_FIRST_S, longest_s=AGAIN_MAX_S)
            self._restarted()
            self._troubles.begin(duty, f"ended by {type(why).__name__}", about=name)
            _log.error(
                LogEvent.TASK_FAILED, task=name, failures=failures, again_in_s=round(again_in_s, 2), exc_info=why
            )
            await asyncio.sleep(again_in_s)

    def _well(self, duty: Duty, name: str) -> None:
        self._troubles.end(duty, about=name)
