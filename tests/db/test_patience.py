"""Work that is repeated while the database is away: for a limited time, and until it is told to stop."""

from __future__ import annotations

import asyncio

import pytest

from runwire.clock import monotonic
from runwire.db import AT_ONCE, Patience
from runwire.errors import ConstraintViolated, DatabaseUnavailable


class Work:
    """Fails so often, then returns how often it ran."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.runs = 0

    async def __call__(self) -> int:
        self.runs += 1
        if self.runs <= self.failures:
            raise DatabaseUnavailable("away")
        return self.runs


async def test_work_is_repeated_until_it_succeeds() -> None:
    assert await Patience(60).through(Work(3)) == 4


async def test_patience_ends_with_the_error() -> None:
    work = Work(1 << 30)
    begun = monotonic()
    with pytest.raises(DatabaseUnavailable):
        await Patience(0.5).through(work)
    assert work.runs > 1
    assert monotonic() - begun >= 0.4


async def test_without_patience_the_first_error_is_raised() -> None:
    work = Work(1)
    with pytest.raises(DatabaseUnavailable):
        await AT_ONCE.through(work)
    assert work.runs == 1


async def test_nothing_is_repeated_once_it_is_ended() -> None:
    ended = asyncio.Event()
    work = Work(1 << 30)
    waiting = asyncio.create_task(Patience(600, ended=ended).through(work))
    while work.runs < 3:  # noqa: ASYNC110  # each run is seen
        await asyncio.sleep(0)
    ended.set()
    with pytest.raises(DatabaseUnavailable):
        await asyncio.wait_for(waiting, 20)
    runs = work.runs
    with pytest.raises(DatabaseUnavailable):
        await Patience(600, ended=ended).through(work)
    assert work.runs == runs + 1


async def test_an_error_of_the_value_is_raised_at_once() -> None:
    async def work() -> None:
        raise ConstraintViolated("of a value")

    with pytest.raises(ConstraintViolated):
        await Patience(60).through(work)
