"""One run of a merged stream: a follower of the run's watch whose bytes go to the merged session."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from runwire.stream.fanout import Outlet
from runwire.stream.watch import Watch
from runwire.telemetry.metrics import DisconnectReason


class Merging(Protocol):
    """The merged session, as its members see it."""

    def take(self, member: Member, frames: bytes) -> None: ...
    def held_bytes(self) -> int: ...
    def over(self) -> bool: ...
    def is_behind(self, member: Member) -> None: ...
    def ask_to_end(self, reason: DisconnectReason, *, among: int = 1) -> None: ...


class Member:
    """States, as its session sees them:

        behind --has every event: join the watch--> following --a piece it could not take, the run's end--> behind
        behind --told of the run's end--> over

    While it follows, the fan-out owns it, and puts pieces into the session's queue. Otherwise the session reads pieces
    for it. So the two never write for the same run at once.
    """

    __slots__ = ("_merging", "cursor", "number", "outlet", "run_id", "watch")

    def __init__(self, run_id: str, *, number: int, cursor: int, merging: Merging) -> None:
        self.run_id = run_id
        self.number = number
        self.cursor = cursor
        """The last seq that was queued or written. It is out of date while the member follows."""
        self.watch: Watch | None = None
        self._merging = merging
        # Frames of a run as its own stream has them: the session gives each its id.
        take: Callable[[bytes], None] = partial(merging.take, self)
        self.outlet = Outlet(take, merging.held_bytes, merging.over, chunked=False)

    def wake(self) -> None:
        """The fan-out gives the member back."""
        self._merging.is_behind(self)

    def ask_to_end(self, reason: DisconnectReason, *, among: int = 1) -> None:
        """The run is gone: the client comes back, and goes on without it."""
        self._merging.ask_to_end(reason, among=among)
