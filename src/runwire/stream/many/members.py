"""The runs of one client's stream of many runs: which there are, and which have something to tell yet."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Final

from runwire.stream.many.member import Member
from runwire.stream.watch import Watch
from runwire.stream.watches import Watches

LATE_US: Final = 60_000_000
"""A run may become visible so much later than it was created. Runs that are over are remembered for twice as long."""


class Members:
    """The members of a stream by run. A run that is over stays known, so that it joins only once."""

    def __init__(self, watches: Watches) -> None:
        self._watches = watches
        self._by_run: dict[str, Member | None] = {}
        self._created_us: dict[str, int] = {}
        self.open = 0
        """Runs of which there is something to tell yet."""

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._by_run

    def __iter__(self) -> Iterator[Member]:
        """Those that are not over."""
        return iter([member for member in self._by_run.values() if member is not None])

    @property
    def runs(self) -> AbstractSet[str]:
        """All that are known, open or not: a view, which changes with them."""
        return self._by_run.keys()

    def add(self, member: Member, *, created_us: int) -> None:
        self._by_run[member.run_id] = member
        self._created_us[member.run_id] = created_us
        self.open += 1

    def add_over(self, run_id: str, *, created_us: int) -> None:
        """Makes a run known of which there is nothing more to tell."""
        self._by_run[run_id] = None
        self._created_us[run_id] = created_us

    def renumber(self) -> list[int]:
        """Numbers those that are not over from 0 on. Returns the numbers that they had, in their new order."""
        before: list[int] = []
        for member in self:
            before.append(member.number)
            member.number = len(before) - 1
        return before

    def past(self, *, since_us: int) -> list[str]:
        """The runs that are over and were created since then. Forgets those that are older: they cannot join again."""
        over = [run_id for run_id, member in self._by_run.items() if member is None]
        for run_id in over:
            if self._created_us[run_id] < since_us:
                del self._by_run[run_id], self._created_us[run_id]
        return [run_id for run_id in over if run_id in self._by_run]

    def watch_all(self) -> None:
        """Opens the watch of every member at once: their look-ups share statements."""
        for member in self:
            if member.watch is None:
                self.watch(member)

    def watch(self, member: Member) -> Watch:
        """The watch of the member's run, which is open until `leave`."""
        member.watch = watch = self._watches.open(member.run_id)
        self._watches.hold(watch, member)
        return watch

    def retire(self, member: Member) -> None:
        """There is nothing more to tell of the run."""
        self.leave(member)
        self._by_run[member.run_id] = None
        self.open -= 1

    def leave(self, member: Member) -> None:
        """Leaves the member's watch."""
        watch, member.watch = member.watch, None
        if watch is None:
            return
        if watch.tail.position is not None:
            watch.leave(member)
        self._watches.leave(watch, member)
