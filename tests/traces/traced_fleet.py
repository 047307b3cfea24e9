"""Processes that send their spans to a backend."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from crash.fleet import QUICK_TAKEOVER, Fleet, fleet_of
from traces.backend import TraceBackend

TESTS = Path(__file__).parents[1]


@asynccontextmanager
async def traced_fleet(*roles: str, database: str, logs: Path, to: TraceBackend) -> AsyncIterator[Fleet]:
    """A process per role. Only runs whose caller asks for it are traced."""
    environment = {
        **QUICK_TAKEOVER,
        "OTEL_EXPORTER_OTLP_ENDPOINT": to.endpoint,
        "RUNWIRE_TRACE_SAMPLE_RATIO": "0",
        "RUNWIRE_AGENTS": "traces.agents:order",
        "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    async with fleet_of(roles, database=database, logs=logs, environment=environment) as fleet:
        yield fleet


async def told(fleet: Fleet) -> None:
    """Returns when every process that was left has ended, and so has sent what it had to send."""
    left = [member for member in fleet.members if member.running]
    assert await asyncio.gather(*(member.terminate() for member in left)) == [0] * len(left)
