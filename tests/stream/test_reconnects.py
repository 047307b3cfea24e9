"""Reconnects of the last minute are counted without ever costing unbounded memory."""

from __future__ import annotations

import pytest

from runwire.stream import reconnects
from runwire.stream.reconnects import Reconnects


def test_the_most_of_a_minute_counts_and_what_is_older_does_not() -> None:
    seen = Reconnects()
    for n in range(6):
        seen.add("often", now=float(n))
    seen.add("once", now=5.0)
    assert seen.most(now=6.0) == 6
    assert seen.most(now=62.5) == 3
    assert seen.most(now=200.0) == 0


def test_past_the_bound_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnects, "EVENTS_MAX", 3)
    seen = Reconnects()
    for n in range(10):
        seen.add(f"client {n % 2}", now=float(n))
    assert seen.most(now=10.0) == 2
