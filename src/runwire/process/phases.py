"""The phases in which a process closes its parts."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Phases:
    """Stacks of what is to be closed, in the order of closing. Within a phase, the last part closes first.

    A part that fails to close keeps no other open.
    """

    pipeline: AsyncExitStack = field(default_factory=AsyncExitStack)
    """Workers hand their runs over; the log and the publisher finish what they have."""
    streams: AsyncExitStack = field(default_factory=AsyncExitStack)
    """Streams end, resumable elsewhere."""
    front: AsyncExitStack = field(default_factory=AsyncExitStack)
    """Listeners and what answers their requests."""
    ground: AsyncExitStack = field(default_factory=AsyncExitStack)
    """The parts that others stand on: the database goes last."""

    async def aclose(self) -> None:
        async with AsyncExitStack() as closing:
            for phase in (self.ground, self.front, self.streams, self.pipeline):
                closing.push_async_callback(phase.aclose)
