"""Steps of mixed streams, which clients at the same place share."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

from runwire.errors import DatabaseUnavailable
from runwire.stream.mixed import MixedCursor, MixedReader


class Source:
    """A run without anything to send. Each look at it waits for the gate."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.looks = 0

    async def position(self, _run_id: str) -> SimpleNamespace:
        self.looks += 1
        await self.gate.wait()
        return SimpleNamespace(last_seq=0, published=0, closed=False)

    async def of_run(self, _run_id: str) -> list[object]:
        return []


async def test_a_client_that_joins_a_look_under_way_looks_once_more_when_it_found_nothing() -> None:
    source: Any = Source()
    reader = MixedReader(source, source)

    async def looked() -> bytes:
        return (await reader.step("r", MixedCursor(0), names=None)).frames

    first = asyncio.create_task(looked())
    while source.looks == 0:  # noqa: ASYNC110  # it is short
        await asyncio.sleep(0)
    joined = [asyncio.create_task(looked()) for _ in range(5)]  # each has heard of news after the look began
    await asyncio.sleep(0)
    assert source.looks == 1
    source.gate.set()
    assert await asyncio.gather(first, *joined) == [b""] * 6
    assert source.looks == 2


async def test_a_look_that_fails_after_its_last_client_left_is_no_error_of_the_process() -> None:
    source: Any = Source()
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))

    async def fails(_run_id: str) -> list[object]:
        raise DatabaseUnavailable("away")

    source.of_run = fails
    look = asyncio.create_task(MixedReader(source, source).step("r", MixedCursor(0), names=None))
    while source.looks == 0:  # noqa: ASYNC110  # it is short
        await asyncio.sleep(0)
    look.cancel()
    await asyncio.gather(look, return_exceptions=True)
    source.gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    del look
    gc.collect()
    assert complaints == []
