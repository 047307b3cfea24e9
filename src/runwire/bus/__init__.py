"""The bus: fan-out of published events. Its messages are hints that something is new; PostgreSQL is the truth.

Every bus keeps a run's messages in order and may repeat or lose them: subscribers drop what they have by seq and read
what they miss from PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import msgspec

from runwire.model.event import StoredEvent


class Published(msgspec.Struct, frozen=True):
    """Events `first_seq` to `last_seq` of a run, now published. `events` is None where the bus carries only the hint.

    `traceparent` (W3C) is the run's, when it is sampled and the bus carries it. `outcome` is the run's terminal state,
    when the last event is its terminal event and the bus carries it.
    """

    run_id: str
    first_seq: int
    last_seq: int
    events: tuple[StoredEvent, ...] | None
    traceparent: str | None = None
    outcome: str | None = None


Deliver: TypeAlias = Callable[[Published], None]


class BusWriter(Protocol):
    """The publisher's side of a bus."""

    async def publish(self, messages: Sequence[Published]) -> None:
        """Returns when the bus has accepted every message. Raises BusUnavailable, possibly after it accepted some."""


class BusReader(Protocol):
    """The streams' side of a bus."""

    def subscribe(self, run_id: str, deliver: Deliver) -> AbstractAsyncContextManager[None]:
        """Calls `deliver`, in the event loop, for every message of the run that comes while the block lasts."""


@dataclass(frozen=True, slots=True)
class Bus:
    """Both sides of the bus of one process."""

    writer: BusWriter
    reader: BusReader
