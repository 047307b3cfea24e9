"""A permit for a run at a worker of the same process: the start claims the run, and the worker walks it at once."""

from __future__ import annotations

import asyncio
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


class Seats:
    """The seats that one worker has given out, and the runs whose start nobody knows the end of."""

    def __init__(
        self, worker_id: str, *, lease_s: float, begin: Callable[[Claim], None], on_doubt: Callable[[], None]
    ) -> None:
        """`begin` walks a run whose seat was taken. `on_doubt` hears of a run that may have been stored."""
        self._worker_id = worker_id
        self._lease_s = lease_s
        self._begin = begin
        self._on_doubt = on_doubt
        self._doubtful: set[str] = set()
        self._none_taken = asyncio.Event()
        self._none_taken.set()
        self.taken = 0
        """Seats that were given and not yet left."""

    @property
    def doubtful(self) -> list[str]:
        """Runs started for this worker with unknown success, to be released."""
        return list(self._doubtful)

    def give(self, run_id: str) -> Seat:
        self.taken += 1
        self._none_taken.clear()
        return Seat(run_id, self._worker_id, self._lease_s, self._begin, self._leave)

    def doubt(self, run_id: str) -> None:
        """Notes a run that this worker owns, perhaps, and does not walk."""
        self._doubtful.add(run_id)

    def settle(self, run_ids: list[str]) -> None:
        """Forgets doubtful runs, which are released."""
        self._doubtful.difference_update(run_ids)

    async def all_left(self) -> None:
        """Returns when no start with a seat is under way."""
        await self._none_taken.wait()

    def _leave(self, doubtful: str | None) -> None:
        self.taken -= 1
        if not self.taken:
            self._none_taken.set()
        if doubtful is not None:
            self._doubtful.add(doubtful)
            self._on_doubt()
