"""Which runs have unpublished events, in the order they were heard of, with the ones that failed kept apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from runwire.clock import longest_pause_s, monotonic

_REST_FIRST_S: Final = 0.1


class Backlog:
    """Runs to publish. A run that failed is tried alone, and rests between tries, so it never stops the others."""

    def __init__(self, *, rest_max_s: float) -> None:
        self._dirty: dict[str, None] = {}  # insertion order is fairness: sorted, a busy run would starve late ones
        self._failures: dict[str, int] = {}
        self._rests_until: dict[str, float] = {}
        self._rest_max_s = rest_max_s
        self._went_through = 0
        self._first_failed_at: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._dirty)

    def add(self, run_ids: Iterable[str]) -> int:
        """Adds runs that are not yet known to be dirty and returns how many those were."""
        before = len(self._dirty)
        for run_id in run_ids:
            if run_id not in self._rests_until:
                self._dirty.setdefault(run_id)
        return len(self._dirty) - before

    def take(self, at_most: int) -> list[str]:
        """The runs that have waited longest; one that failed before comes alone."""
        self._wake_rested()
        taken: list[str] = []
        for run_id in self._dirty:
            if self._failures.get(run_id):
                if not taken:
                    taken.append(run_id)
                break
            taken.append(run_id)
            if len(taken) >= at_most:
                break
        for run_id in taken:
            del self._dirty[run_id]
        return taken

    def published(self, run_ids: Iterable[str]) -> None:
        if self._failures:
            self._went_through += 1
            for run_id in run_ids:
                self._failures.pop(run_id, None)
                self._first_failed_at.pop(run_id, None)

    def poisoned(self, run_ids: list[str]) -> bool:
        """Whether these runs, which just failed, are one run that fails while others succeed.

        Others have succeeded if any went out since its first failure; in an outage none does.
        """
        if len(run_ids) != 1:
            return False
        return self._first_failed_at.get(run_ids[0], self._went_through) < self._went_through

    def failed(self, run_ids: list[str]) -> None:
        """Returns the runs of a failed batch one by one. A run that fails alone again rests."""
        for run_id in run_ids:
            failures = self._failures[run_id] = self._failures.get(run_id, 0) + 1
            self._first_failed_at.setdefault(run_id, self._went_through)
            if len(run_ids) == 1 and failures > 2:
                rest_s = longest_pause_s(failures, first_s=_REST_FIRST_S, longest_s=self._rest_max_s)
                self._rests_until[run_id] = monotonic() + rest_s
            else:
                self._dirty.setdefault(run_id)

    def _wake_rested(self) -> None:
        if self._rests_until:
            now = monotonic()
            for run_id in [run_id for run_id, until in self._rests_until.items() if until <= now]:
                del self._rests_until[run_id]
                self._dirty.setdefault(run_id)
