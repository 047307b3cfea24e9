"""Appends that wait for a commit, in order, and the runs that are being written meanwhile. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from runwire.append.request import Group, Request


class Queue:
    """Runs are served first come, first served. A run that is being written waits until that is done.

    So two writers never meet on a run's row, and each run's appends are stored in the order of submission.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, list[Request]] = {}
        self._order: deque[str] = deque()
        """The runs with waiting appends of which none is being written, each once."""
        self._under_way: set[str] = set()
        self._count = 0
        self.ready = 0
        """How many appends could be taken now: those of runs that are not being written."""

    def __len__(self) -> int:
        """How many appends wait."""
        return self._count

    @property
    def asked_at(self) -> float | None:
        """The time (monotonic) at which the next append was submitted."""
        return self._waiting[self._order[0]][0].asked_at if self._order else None

    def put(self, request: Request) -> None:
        run_id = request.run_id
        waiting = self._waiting.get(run_id)
        free = run_id not in self._under_way
        if waiting is not None:
            waiting.append(request)
        else:
            self._waiting[run_id] = [request]
            if free:
                self._order.append(run_id)
        self._count += 1
        self.ready += free

    def take(self, most: int) -> list[Group]:
        """The next appends, `most` of them, as a group for each run. The runs are under way until `done`."""
        groups: list[Group] = []
        while self._order and most > 0:
            run_id = self._order.popleft()
            waiting = self._waiting.pop(run_id)
            group = Group(waiting[0])
            taken, last = 1, min(most, len(waiting))
            while taken < last and group.try_join(waiting[taken]):
                taken += 1
            if taken < len(waiting):
                self._waiting[run_id] = waiting[taken:]
            self._under_way.add(run_id)
            self._count -= taken
            self.ready -= len(waiting)
            most -= taken
            groups.append(group)
        return groups

    def done(self, groups: Sequence[Group]) -> None:
        """Success or failure, the appends that wait behind them come next."""
        for group in reversed(groups):
            run_id = group.head.run_id
            self._under_way.remove(run_id)
            if run_id in self._waiting:
                self._order.appendleft(run_id)
                self.ready += len(self._waiting[run_id])
