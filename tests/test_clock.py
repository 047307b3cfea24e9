"""Waiting for an event, with a deadline."""

from __future__ import annotations

import asyncio

import pytest

from runwire.clock import longest_pause_s, pause_s, wait_until_set


async def test_it_says_whether_the_event_is_set() -> None:
    event = asyncio.Event()
    assert not await wait_until_set(event, within_s=0.01)
    assert not await wait_until_set(event, within_s=-1)
    asyncio.get_running_loop().call_later(0.01, event.set)
    assert await wait_until_set(event, within_s=30)
    assert await wait_until_set(event, within_s=0)


async def test_a_loop_that_waits_by_it_can_always_be_ended() -> None:
    """However many turns lie between the event and the cancellation."""
    for turns in range(5):
        event = asyncio.Event()

        async def forever(event: asyncio.Event) -> None:
            while True:
                event.clear()
                await wait_until_set(event, within_s=30)

        looping = asyncio.create_task(forever(event))
        for _ in range(3):
            await asyncio.sleep(0)
        event.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        looping.cancel()
        done, _ = await asyncio.wait([looping], timeout=5)
        assert done, turns


@pytest.mark.parametrize("failures", [0, 1, 2, 1024, 1025, 10**6, 10**400])
@pytest.mark.parametrize("first_s", [0.0, 5e-324, 0.05, 1e308])
def test_a_pause_is_bounded_however_often_it_failed(failures: int, first_s: float) -> None:
    assert 0 <= pause_s(failures, first_s=first_s, longest_s=5.0) <= 5.0


def test_a_pause_doubles_up_to_the_longest() -> None:
    ceilings = [longest_pause_s(failures, first_s=0.1, longest_s=0.5) for failures in (1, 2, 3, 4, 5000)]
    assert ceilings == [0.1, 0.2, 0.4, 0.5, 0.5]
    assert all(0.2 <= pause_s(3, first_s=0.1, longest_s=9.0) <= 0.4 for _ in range(100))
