from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from runwire.bus.memory import MemoryBus
from runwire.db import Database


@pytest.fixture
async def db(database: str) -> AsyncIterator[Database]:
    async with Database(database) as opened:
        yield opened


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus()
