"""The part of a session that others reach: they wake it, rotate it, and ask it to end."""

from __future__ import annotations

import asyncio

from runwire.clock import JITTER, monotonic
from runwire.stream.fanout import Outlet
from runwire.stream.limits import StreamLimits
from runwire.stream.sse import jittered_retry_ms, resumable_end
from runwire.telemetry.metrics import DisconnectReason


class ClientLoop:
    """One client's loop: it parks while it has nothing to do. A session adds what it writes."""

    __slots__ = ("_asked", "_ended_with", "_limits", "_parked", "_resting", "_rotate_at", "outlet", "reason")

    def __init__(self, limits: StreamLimits) -> None:
        self.outlet: Outlet
        self.reason = DisconnectReason.CLIENT
        """Why it ended; `client` for a session that never ran."""
        self._limits = limits
        self._rotate_at = monotonic() + limits.max_age_s * JITTER.uniform(0.9, 1.1)
        self._asked: DisconnectReason | None = None
        self._ended_with = 1
        self._parked: asyncio.Future[None] | None = None
        self._resting = False

    @property
    def is_parked(self) -> bool:
        """It waits until `wake`."""
        return self._parked is not None and not self._parked.done()

    def rotate_within(self, seconds: float) -> None:
        """Rotates the stream no later: the client's permission does not hold for longer."""
        self._rotate_at = min(self._rotate_at, monotonic() + seconds)

    def ask_to_end(self, reason: DisconnectReason, *, among: int = 1) -> None:
        """Ends the stream soon, as one of `among` that are ended together."""
        self._asked = reason
        self._ended_with = among
        self.wake()

    def wake(self) -> None:
        """Lets the loop look again."""
        if self._parked is not None and not self._parked.done():
            self._parked.set_result(None)

    def _parking(self) -> asyncio.Future[None]:
        """Await it until `wake`. A coroutine would stay in memory for as long as the session has nothing to do."""
        self._parked = asyncio.get_running_loop().create_future()
        return self._parked

    def _resumable_end(self) -> bytes:
        """The last bytes of a stream that goes on elsewhere."""
        retry_ms = jittered_retry_ms(self._limits.retry_ms, streams=self._ended_with)
        return resumable_end(self.reason.value, retry_ms=retry_ms)
