"""The bus of one process: a dictionary of callbacks."""

from __future__ import annotations

from collections.abc import Sequence

from runwire.bus import Bus, Deliver, Published
from runwire.bus.subscribers import Subscribers, Subscription, tell
from runwire.process import Context


class MemoryBus:
    """Delivers within the call to `publish`, so nothing is ever queued and nothing is lost while the process lives."""

    def __init__(self) -> None:
        self._subscribers = Subscribers()

    async def publish(self, messages: Sequence[Published]) -> None:
        for message in messages:
            for deliver in self._subscribers.of(message.run_id):
                tell(deliver, message)

    def subscribe(self, run_id: str, deliver: Deliver) -> Subscription:
        return self._subscribers.subscribed(run_id, deliver)


async def open_bus(_context: Context) -> Bus:
    bus = MemoryBus()
    return Bus(bus, bus)
