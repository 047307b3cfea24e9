"""One append as its caller asks for it, checked before it costs the database anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from runwire.db import Transaction
from runwire.errors import IllegalBatch
from runwire.model.content import is_numbered
from runwire.model.event import EventType, NewEvent, Source
from runwire.model.run import TERMINAL, RunState


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the run's state, stored in the transaction of its events.

    A run that begins to wait does so for the signals in `waiting_for`, separated by blanks, and until its timer is due:
    `+<seconds>` from its commit, or `<epoch seconds>`, by the database's clock.
    """

    state: RunState
    waiting_for: str | None = None
    due: str | None = None
    error_code: str | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The point from which a run would go on. `state` is its JSON, or None when the last checkpoint's still holds.

    The run goes on at `on_timeout` instead if it waits and its timer is due first. The checkpoint lies before the last
    `followed_by` events of its append.
    """

    node: str | None
    next_node: str
    state: bytes | None
    followed_by: int = 0
    on_timeout: str | None = None


class Appended(msgspec.Struct, frozen=True):
    """The result of an append: seqs `first_seq` to `last_seq` (`first_seq - 1 == last_seq` for an empty one).

    `signals`: the run is external, and there are signals that its orchestrator has not acknowledged.
    """

    first_seq: int
    last_seq: int
    cancel_requested: bool
    signals: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """The events of an append inside its transaction: they have their seqs, and are not committed yet.

    `first_number` is what the first event got whose `fn` ends with `NUMBER`, which the number has taken the place of.
    """

    run_id: str
    first_seq: int
    events: Sequence[NewEvent]
    first_number: int

    def seq_of(self, event: NewEvent) -> int:
        """The seq of the first event that equals `event`. Raises ValueError when there is none."""
        return self.first_seq + self.events.index(event)

    def number_of(self, event: NewEvent) -> int:
        """The number that the first event that equals `event` got. Raises ValueError when there is none."""
        return self.first_number + sum(map(is_numbered, self.events[: self.events.index(event)]))


Companion: TypeAlias = Callable[[Transaction, Stored], Awaitable[None]]
"""Rows that are stored with the events, in one transaction. Called once for each attempt to store the append."""


class Request(msgspec.Struct, frozen=True):
    """An append waiting for its commit since `asked_at` (monotonic), and the future its caller waits on."""

    run_id: str
    fence: int
    if_seq: int | None
    source: Source
    events: Sequence[NewEvent]
    change: Change | None
    checkpoint: Checkpoint | None
    waiter: asyncio.Future[Appended]
    asked_at: float
    companion: Companion | None = None

    def fulfil(self, base: int, *, cancel_requested: bool, signals: bool) -> None:
        if not self.waiter.done():
            self.waiter.set_result(Appended(base + 1, base + len(self.events), cancel_requested, signals))

    def fail(self, error: Exception) -> None:
        if not self.waiter.done():
            self.waiter.set_exception(error)


class Group:
    """Appends of one run that can be stored as one with the same result."""

    __slots__ = ("count", "requests")

    def __init__(self, first: Request) -> None:
        self.requests = [first]
        self.count = len(first.events)

    @property
    def head(self) -> Request:
        return self.requests[0]

    @property
    def last(self) -> Request:
        """The last request, which may carry a change of state, a checkpoint or a companion."""
        return self.requests[-1]

    def try_join(self, later: Request) -> bool:
        head, last = self.head, self.last
        if (
            last.change
            or last.checkpoint
            or last.companion
            or later.fence != head.fence
            or later.source is not head.source
        ):
            return False
        expected = None if head.if_seq is None else head.if_seq + self.count
        if later.if_seq != expected:
            return False
        self.requests.append(later)
        self.count += len(later.events)
        return True

    def encoded(self) -> str:
        """The events as the statement takes them; neither blanks nor commas occur in names and fns."""
        if self.last.companion:
            return self._encoded_with_numbers()
        return ",".join(
            [
                f"{event.type.value} {event.name or event.fn or ''}"
                for request in self.requests
                for event in request.events
            ]
        )

    def _encoded_with_numbers(self) -> str:
        encoded: list[str] = []
        number = 0
        for request in self.requests:
            for event in request.events:
                encoded.append(f"{event.type.value} {event.name or event.fn or ''}")
                if is_numbered(event):
                    number += 1
                    encoded[-1] += f" {number}"
        return ",".join(encoded)

    @property
    def numbered(self) -> int | None:
        """How many numbers its events need; None without a companion."""
        last = self.requests[-1]
        return sum(map(is_numbered, last.events)) if last.companion else None

    async def accompany(self, transaction: Transaction, base: int, number: int) -> None:
        """Stores what goes with the last request, the only one that may have a companion. `base` and `number` are the
        seq and the number before the group's.
        """
        last = self.last
        if last.companion is not None:
            first_seq = base + self.count - len(last.events) + 1
            await last.companion(transaction, Stored(last.run_id, first_seq, last.events, number + 1))

    def fulfil(self, base: int, *, cancel_requested: bool, signals: bool) -> None:
        for request in self.requests:
            request.fulfil(base, cancel_requested=cancel_requested, signals=signals)
            base += len(request.events)


def check_legal(run_id: str, events: Sequence[NewEvent], change: Change | None) -> None:
    """Raises IllegalBatch unless the terminal event is last, alone of its kind and goes with its terminal state."""
    ends = [event.type is EventType.RUN_FINISHED for event in events]
    closing = change is not None and change.state in TERMINAL
    if any(ends[:-1]) or (bool(ends) and ends[-1]) != closing:
        raise IllegalBatch(run_id, "RunFinished must be the last event, in one append with the outcome")
    if any(event.type is EventType.RUN_STARTED for event in events[1:]):
        raise IllegalBatch(run_id, "RunStarted must be the first event of a run")
