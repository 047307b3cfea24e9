"""Waiting for a fact, with a deadline that fails loudly."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

POLL_S = 0.01


@overload
async def eventually(probe: Callable[[], Awaitable[T]], *, within_s: float = ...) -> T: ...
@overload
async def eventually(probe: Callable[[], T], *, within_s: float = ...) -> T: ...
async def eventually(probe: Callable[[], T | Awaitable[T]], *, within_s: float = 5.0) -> T:
    """The first truthy value of `probe`, which is asked every 10 ms and may be async.

    An AssertionError the probe raises means "not yet"; any other error is the test's. At the deadline an
    AssertionError names the probe and what it last saw.
    """
    deadline = time.monotonic() + within_s
    while True:
        seen: T | AssertionError
        try:
            answer = probe()
            seen = await answer if inspect.isawaitable(answer) else answer
        except AssertionError as not_yet:
            seen = not_yet
        else:
            if seen:
                return seen
        if time.monotonic() >= deadline:
            cause = seen if isinstance(seen, AssertionError) else None
            raise AssertionError(f"{_named(probe)} not within {within_s:g} s; last seen: {seen!r}") from cause
        await asyncio.sleep(POLL_S)


async def grows_to(goal: float, probe: Callable[[], Awaitable[float]], *, stalled_s: float = 30.0) -> None:
    """Returns when the number that `probe` reads has reached `goal`, however slow the machine makes its way there.

    An AssertionError says how far it came, once it has stood still for `stalled_s`.
    """
    seen = float("-inf")
    deadline = time.monotonic() + stalled_s
    while (now := await probe()) < goal:
        if now > seen:
            seen, deadline = now, time.monotonic() + stalled_s
        elif time.monotonic() >= deadline:
            raise AssertionError(f"{_named(probe)} stands still at {now:g} of {goal:g}")
        await asyncio.sleep(POLL_S)


def _named(probe: Callable[[], object]) -> str:
    try:
        return inspect.getsource(probe).strip() if probe.__name__ == "<lambda>" else probe.__name__
    except (AttributeError, OSError):
        return repr(probe)
