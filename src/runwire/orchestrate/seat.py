"""A permit for a run at a worker of the same process: the start claims the run, and the worker walks it at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from runwire.orchestrate.claim import Claim


@dataclass(slots=True)
class Seat:
    """Enter it to hold the permit until `run_id` is stored with `worker_id` as its owner, then `take` it.

    An untaken permit becomes free again. When the block raises, the run may have been stored, so the worker releases a
    run that it may own without walking it.
    """

    run_id: str
    worker_id: str
    lease_s: float
    begin: Callable[[Claim], None]
    leave: Callable[[str | None], None]
    """Frees the permit, with the id of a run that may have been stored."""
    _taken: bool = field(default=False, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, trace: TracebackType | None) -> None:
        self.leave(None if self._taken or kind is None else self.run_id)

    def take(self, claim: Claim) -> None:
        """Hands the stored run to the worker, which walks it."""
        self._taken = True
        self.begin(claim)
