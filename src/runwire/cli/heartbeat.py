"""A process of `serve --processes` shows its supervisor what it does and that it can: a byte a second, through a pipe.

One that cannot (a stopped process, an event loop that does not come back, no descriptor left) goes on holding its share
of the port: the system gives it a part of all new connections, and nobody answers them.

    imports its agents, silent --> starting --> serving --> draining --> ended
                                     |  ^
                                     v  |
                                  migrating
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final, Self

from runwire.clock import monotonic

BEAT_S: Final = 1.0
FIRST_BEATS_S: Final = 0.1
"""Until a process serves: one that freezes in its first second would else have made itself heard to nobody."""
DEAF_S: Final = 15.0
"""A silence after which a process is deaf. A node that blocks for the usual time-out of 10 s is cut before."""
STARTING_S: Final = 120.0
"""The first beat may take so long: a process imports its agents before. From then on its start may."""
_ENVIRONMENT: Final = "RUNWIRE_HEARTBEAT_FD"


class Phase(StrEnum):
    """The work of a process, as the byte that it sends. A migration takes as long as it takes, and holds no port."""

    STARTING = "s"
    MIGRATING = "m"
    SERVING = "."
    DRAINING = "d"


class Ear:
    """The supervisor's end. Give `descriptor` to the process, then `close_other_end`. Call `listen` every second."""

    def __init__(self) -> None:
        self._own, self.descriptor = os.pipe()
        os.set_blocking(self._own, False)
        self.phase: Phase | None = None
        """None before the first beat."""
        self._heard_at = self._phase_at = self._listened_at = monotonic()

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

    def listen(self) -> None:
        """Takes what the process has said since the last call.

        A supervisor that stood still itself, as in a frozen container, hears again before it judges.
        """
        now = monotonic()
        late, self._listened_at = now - self._listened_at > DEAF_S / 3, now
        said = b""
        with contextlib.suppress(BlockingIOError):
            said = os.read(self._own, 65_536)
        if said:
            self._heard_at = now
            phase = Phase(said[-1:].decode())
            if phase is not self.phase:
                self.phase, self._phase_at = phase, now
        if late:
            self._heard_at = self._phase_at = now

    @property
    def silent_s(self) -> float:
        """Seconds since the last beat."""
        return self._listened_at - self._heard_at

    @property
    def phase_s(self) -> float:
        """Seconds since the present phase was first heard."""
        return self._listened_at - self._phase_at

    @property
    def is_deaf(self) -> bool:
        """Whether the process has been silent for too long."""
        return self.silent_s > (STARTING_S if self.phase is None else DEAF_S)


async def beat(phase: Callable[[], Phase | None]) -> None:
    """Beats until cancelled, in a process that a supervisor has started; returns at once in others.

    It is silent while there is no phase.
    """
    given = os.environ.pop(_ENVIRONMENT, "")
    if not given.isdecimal():
        return
    descriptor = int(given)
    os.set_inheritable(descriptor, False)  # noqa: FBT003  # has no name
    os.set_blocking(descriptor, False)
    while True:
        now = phase()
        # The supervisor may be gone, or not be listening just now. Without a descriptor to spare, for which the second
        # line fails, this process accepts no connection: it is to be replaced, unless it takes no more anyway.
        with contextlib.suppress(OSError):
            if now is not None:
                if now is not Phase.DRAINING:
                    os.close(os.dup(descriptor))
                os.write(descriptor, now.encode())
        await asyncio.sleep(BEAT_S if now in (Phase.SERVING, Phase.DRAINING) else FIRST_BEATS_S)
