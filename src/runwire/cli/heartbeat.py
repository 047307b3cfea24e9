"""A process of `serve --processes` shows its supervisor that it can serve: a byte a second, through a pipe.

One that cannot (a stopped process, an event loop that does not come back, no descriptor left) goes on holding its share
of the port: the system gives it a part of all new connections, and nobody answers them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from typing import Final, Self

from runwire.clock import monotonic

BEAT_S: Final = 1.0
DEAF_S: Final = 15.0
"""A silence after which a process is deaf. A node that blocks for the usual time-out of 10 s is cut before."""
STARTING_S: Final = 120.0
"""The first beat may take so long: a process imports its agents before."""
_ENVIRONMENT: Final = "RUNWIRE_HEARTBEAT_FD"


class Ear:
    """The supervisor's end. Give `descriptor` to the process, then `close_other_end`."""

    def __init__(self) -> None:
        self._own, self.descriptor = os.pipe()
        os.set_blocking(self._own, False)
        self._heard_at = monotonic()
        self._ever = False
        self._asked_at = monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_other_end()
        os.close(self._own)

    @property
    def environment(self) -> Mapping[str, str]:
        return {_ENVIRONMENT: str(self.descriptor)}

    def close_other_end(self) -> None:
        """After the process has its copy: else its end would not be seen."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def deaf_for_s(self) -> float | None:
        """How long the process has been silent, when that is too long. To be asked every second or so.

        A supervisor that stood still itself, as in a frozen container, hears again before it judges.
        """
        now = monotonic()
        late, self._asked_at = now - self._asked_at > DEAF_S / 3, now
        with contextlib.suppress(BlockingIOError):
            if os.read(self._own, 65_536):
                self._heard_at, self._ever = now, True
        if late:
            self._heard_at = now
        silent_s = now - self._heard_at
        return silent_s if silent_s > (DEAF_S if self._ever else STARTING_S) else None


async def beat() -> None:
    """Beats until cancelled, in a process that a supervisor has started; returns at once in others."""
    given = os.environ.pop(_ENVIRONMENT, None)
    if given is None:
        return
    descriptor = int(given)
    os.set_inheritable(descriptor, False)  # noqa: FBT003  # has no name
    os.set_blocking(descriptor, False)
    while True:
        # The supervisor may be gone, or not be listening just now. Without a descriptor to spare, for which the second
        # line fails, this process accepts no connection: it is to be replaced.
        with contextlib.suppress(OSError):
            os.close(os.dup(descriptor))
            os.write(descriptor, b".")
        await asyncio.sleep(BEAT_S)
