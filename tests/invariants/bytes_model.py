"""The rules of parts as a program small enough to be believed: which attempt a node writes, and which bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

from runwire.content.part import PartState


@dataclass(slots=True)
class AttemptModel:
    """Everything that was written. The first `durable` bytes are committed for certain; the rest may be."""

    written: bytearray = field(default_factory=bytearray)
    durable: int = 0
    media_type: str = "text/plain"


@dataclass(slots=True)
class PartModel:
    n: int
    name: str
    state: PartState
    attempts: list[AttemptModel] = field(default_factory=list)
    complete: bool = False
    """Whether its node has left the block: it is sealed with the end of the node."""

    @property
    def newest(self) -> AttemptModel:
        return self.attempts[-1]


@dataclass(slots=True)
class BytesModel:
    """One run. `erased`: its content's time is over."""

    run_id: str
    external: bool
    fence: int = 1
    over: bool = False
    erased: bool = False
    parts: dict[int, PartModel] = field(default_factory=dict)

    def open(self, name: str, media_type: str) -> PartModel | None:
        """The part of that name, open, with a new attempt; None where it must be refused."""
        newest = max((part for part in self.parts.values() if part.name == name), key=lambda part: part.n, default=None)
        if newest is not None and newest.state is PartState.OPEN:
            return None
        if newest is None or newest.state is PartState.SEALED:
            newest = PartModel(len(self.parts) + 1, name, PartState.OPEN)
            self.parts[newest.n] = newest
        newest.state, newest.complete = PartState.OPEN, False
        newest.attempts.append(AttemptModel(media_type=media_type))
        return newest

    def opened(self) -> list[PartModel]:
        return [part for part in self.parts.values() if part.state is PartState.OPEN]

    def end(self, *, failed: bool = False) -> None:
        """The try of its owner has ended: complete parts are sealed, unless it failed, and the others abandoned."""
        for part in self.opened():
            part.state = PartState.SEALED if part.complete and not failed else PartState.ABANDONED

    def expected(self, n: int, attempt: int) -> bytes:
        return bytes(self.parts[n].attempts[attempt - 1].written)
