"""Lags are differences of PostgreSQL's clock, whatever a machine's own clock says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline import raw
from runwire.clock import wall_us
from runwire.db import Database
from runwire.db.server_clock import DRIFT, Reading, ServerClock, monotonic_us

SECOND = 1_000_000
TIMES = st.integers(0, 10**15)
TRIPS = st.integers(0, 60 * SECOND)


@given(asked=TIMES, trip=TRIPS, when=st.floats(0, 1), ahead=st.integers(-(10**15), 10**15))
def test_a_reading_is_right_up_to_its_bound_whenever_the_server_looked(
    asked: int, trip: int, when: float, ahead: int
) -> None:
    looked_at = asked + int(trip * when)
    reading = Reading.of(asked_us=asked, server_us=looked_at + ahead, answered_us=asked + trip)
    assert abs(reading.offset_us - ahead) <= reading.bound_us <= trip // 2 + 1


def test_the_more_exact_reading_counts_until_it_is_old() -> None:
    exact = Reading(offset_us=0, bound_us=500, at_us=0)
    soon = Reading(offset_us=400, bound_us=2000, at_us=SECOND)
    assert not soon.succeeds(exact)
    later = Reading(offset_us=400, bound_us=2000, at_us=round(2000 / DRIFT))
    assert later.succeeds(exact)
    assert exact.bound_at(later.at_us) == 2500


def test_a_clock_that_was_set_counts_at_once() -> None:
    before = Reading(offset_us=0, bound_us=500, at_us=0)
    after = Reading(offset_us=3 * SECOND, bound_us=50_000, at_us=SECOND)
    assert after.succeeds(before)


async def test_the_time_is_postgresql_s_on_a_machine_whose_clock_is_three_seconds_ahead(database: str) -> None:
    async with Database(database) as db:
        clock = ServerClock(db, wall_us=lambda: wall_us() + 3 * SECOND)
        assert not clock.known
        await clock.measure()
        assert clock.known
        look = await raw(database)
        before = clock.now_us()
        seen: int = await look.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
        after = clock.now_us()
        await look.close()
        margin = clock.bound_s * 1e6 + 1
        assert before - margin <= seen <= after + margin
        assert abs(clock.ahead_s - 3.0) <= clock.bound_s + 1.0


async def test_the_time_does_not_jump_with_this_machine_s_clock(database: str) -> None:
    jump_us = 0
    async with Database(database) as db:
        clock = ServerClock(db, wall_us=lambda: wall_us() + jump_us)
        await clock.measure()
        began, before = monotonic_us(), clock.now_us()
        assert not clock.look()
        jump_us = -12 * SECOND
        assert clock.look(), "it is time to read PostgreSQL's clock, which may be the same"
        assert not clock.look()
        assert clock.now_us() - before <= monotonic_us() - began
        assert clock.ahead_s < -11
