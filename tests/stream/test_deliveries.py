"""Deliveries are counted as if each had been counted by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runwire.stream.fanout import Deliveries
from runwire.telemetry.metrics import DeliveryPath
from stream.feed import count, fresh_metrics

TIMES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), max_size=6)


@given(st.lists(st.tuples(TIMES, st.integers(1, 5)), max_size=5))
def test_every_delivery_is_counted_once(delivered: list[tuple[list[tuple[int, int]], int]]) -> None:
    metrics = fresh_metrics()
    Deliveries(metrics).tell(delivered)
    expected = sum(many * clients for times, clients in delivered for many, _ in times)
    assert count(metrics.events_delivered[DeliveryPath.LIVE]) == expected
    assert metrics.delivery_lag.count == expected
