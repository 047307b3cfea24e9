"""The contract's invariants as a program small enough to be believed: what a run holds, and what it must refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from runwire.errors import (
    FenceStale,
    IllegalAppend,
    IllegalBatch,
    NotExternal,
    RunClosed,
    RunwireError,
    SeqConflict,
)
from runwire.model.event import EventType, NewEvent, Source
from runwire.model.run import RunState

Label = tuple[str, str | None]
"""(type, name or fn) of an event."""


@dataclass
class RunModel:
    """One run: its log, its state and fence, and how much of it the bus has taken (`offered`)."""

    run_id: str
    external: bool
    fence: int
    state: RunState = RunState.PENDING
    log: list[Label] = field(default_factory=list)
    offered: int = 0
    cursor: int = 0
    """The highest committed publish position seen so far; it never goes back."""

    @property
    def last_seq(self) -> int:
        return len(self.log)

    @property
    def closed(self) -> bool:
        return self.state.terminal

    def refusal(  # noqa: PLR0911  # one per rule of the contract, in the order callers are told
        self,
        events: Sequence[NewEvent],
        *,
        fence: int,
        source: Source,
        if_seq: int | None = None,
        outcome: RunState | None = None,
    ) -> type[RunwireError] | None:
        """The error that this append must raise, or None when it must be stored."""
        types = [event.type for event in events]
        ends = types.count(EventType.RUN_FINISHED)
        if ends != (outcome is not None) or (ends and types[-1] is not EventType.RUN_FINISHED):
            return IllegalBatch
        if EventType.RUN_STARTED in types[1:]:
            return IllegalBatch
        if source is Source.API and not self.external:
            return NotExternal
        if self.closed:
            return RunClosed
        if fence != self.fence:
            return FenceStale
        if if_seq is not None and if_seq != self.last_seq:
            return SeqConflict
        if types and (types[0] is EventType.RUN_STARTED) != (not self.log):
            return IllegalAppend
        return None

    def store(self, events: Sequence[NewEvent], *, outcome: RunState | None = None) -> None:
        """The effect of an append that was not refused."""
        if events and not self.log:
            self.state = RunState.STARTED
        self.log += [(event.type.value, event.name or event.fn) for event in events]
        if outcome is not None:
            self.state = outcome

    def take_over(self) -> None:
        self.fence += 1

    def offer(self, first_seq: int, labels: Sequence[Label]) -> str | None:
        """The bus took events from `first_seq` on. Says what is wrong with that, if anything."""
        last_seq = first_seq + len(labels) - 1
        if first_seq > self.offered + 1:
            return f"{self.run_id}: {first_seq} was on the bus before {self.offered + 1}"
        if list(labels) != self.log[first_seq - 1 : last_seq]:
            return f"{self.run_id}: the bus got {labels} as {first_seq}.. which the log has not"
        self.offered = max(self.offered, last_seq)
        return None
