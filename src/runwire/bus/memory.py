"""The bus of one process: a dictionary of callbacks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from runwire.bus import Deliver, Published


class MemoryBus:
    """Delivers within the call to `publish`, so nothing is ever queued and nothing is lost while the process lives."""

    def __init__(self) -> None:
        self._subscribers: dict[str, list[Deliver]] = {}

    async def publish(self, messages: Sequence[Published]) -> None:
        for message in messages:
            for deliver in self._subscribers.get(message.run_id, ()):
                deliver(message)

    @asynccontextmanager
    async def subscribe(self, run_id: str, deliver: Deliver) -> AsyncIterator[None]:
        self._subscribers[run_id] = [*self._subscribers.get(run_id, ()), deliver]
        try:
            yield
        finally:
            left = [other for other in self._subscribers[run_id] if other is not deliver]
            if left:
                self._subscribers[run_id] = left
            else:
                del self._subscribers[run_id]
