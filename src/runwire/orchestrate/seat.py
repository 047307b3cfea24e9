"""A permit for a run at a worker of the same process: the start claims the run, and the worker walks it at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from runwire.orchestrate.claim import Claim


@dataclass(slots=True)
class Seat:
    """Enter it to keep the room until `run_id` is stored with `worker_id` as its owner, then `take` it.

    Left untaken it is free again. A block that raises does not know whether the run was stored: the worker gives up
    what it may own without walking it.
    """

    run_id: str
    worker_id: str
    lease_s: float
    begin: Callable[[Claim], None]
    leave: Callable[[str | None], None]
    """Frees the room, with the id of a run that may have been stored."""
    _taken: bool = field(default=False, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, trace: TracebackType | None) -> None:
        self.leave(None if self._taken or kind is None else self.run_id)

    def take(self, claim: Claim) -> None:
        """The run is stored: the worker walks it from now on."""
        self._taken = True
        self.begin(claim)
