"""Reconnects in the last minute: of one run (its streams churn), of one client (its connection flaps)."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

WINDOW_S: Final = 60.0
EVENTS_MAX: Final = 100_000


class Reconnects:
    """Counts by key over a sliding minute. Shows only maxima, and no key."""

    def __init__(self) -> None:
        self._events: deque[tuple[float, str]] = deque()
        self._by_key: Counter[str] = Counter()

    def add(self, key: str, *, now: float) -> None:
        """Counts a reconnect. Forgets the oldest past 100 000 a minute, which are alarm enough."""
        self._events.append((now, key))
        self._by_key[key] += 1
        if len(self._events) > EVENTS_MAX:
            self._forget_oldest()

    def most(self, *, now: float) -> int:
        """The count of the key with most."""
        while self._events and self._events[0][0] <= now - WINDOW_S:
            self._forget_oldest()
        return max(self._by_key.values(), default=0)

    def _forget_oldest(self) -> None:
        _, key = self._events.popleft()
        self._by_key[key] -= 1
        if not self._by_key[key]:
            del self._by_key[key]
