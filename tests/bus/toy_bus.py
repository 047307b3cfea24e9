"""A bus for tests: it delivers within the process, and counts."""

from __future__ import annotations

from collections.abc import Sequence

from runwire.bus import Bus, Deliver, Published
from runwire.bus.subscribers import Subscribers, Subscription, tell
from runwire.process import Context

CARRIED: list[Published] = []


class ToyBus:
    def __init__(self) -> None:
        self._subscribers = Subscribers()

    async def publish(self, messages: Sequence[Published]) -> None:
        for message in messages:
            CARRIED.append(message)
            for deliver in self._subscribers.of(message.run_id):
                tell(deliver, message)

    def subscribe(self, run_id: str, deliver: Deliver) -> Subscription:
        return self._subscribers.subscribed(run_id, deliver)


async def open_bus(_context: Context) -> Bus:
    bus = ToyBus()
    return Bus(bus, bus)


def checked(url: str) -> str:
    if not url.removeprefix("toy://"):
        raise ValueError("must name a host as `toy://host`")
    return url
