"""Waiting for an event, with a deadline."""

from __future__ import annotations

import asyncio

from runwire.clock import set_within


async def test_it_says_whether_the_event_is_set() -> None:
    event = asyncio.Event()
    assert not await set_within(event, 0.01)
    assert not await set_within(event, -1)
    asyncio.get_running_loop().call_later(0.01, event.set)
    assert await set_within(event, 30)
    assert await set_within(event, 0)


async def test_a_loop_that_waits_by_it_can_always_be_ended() -> None:
    """However many turns lie between the event and the cancellation."""
    for turns in range(5):
        event = asyncio.Event()

        async def forever(event: asyncio.Event) -> None:
            while True:
                event.clear()
                await set_within(event, 30)

        looping = asyncio.create_task(forever(event))
        for _ in range(3):
            await asyncio.sleep(0)
        event.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        looping.cancel()
        done, _ = await asyncio.wait([looping], timeout=5)
        assert done, turns
