"""The scenarios, one module each. A module has NAME, TITLE and `measure`, which is one round.

`measure` gives rows by what they are of, each a dict of figures; the report takes the median of every figure over the
rounds. `compare`, where there is one, adds to the medians what compares them.
"""

from __future__ import annotations

from typing import Protocol

from benchmarks.scenarios import (
    append,
    between_processes,
    bloat,
    end_to_end,
    fan_out,
    growth,
    http_append,
    idle_memory,
    many_runs,
    parts,
    peers,
    publish_lag,
    scrape,
    storm,
    timers,
    walk,
)
from benchmarks.stand import Stand

Rows = dict[str, dict[str, float]]


class Scenario(Protocol):
    NAME: str
    TITLE: str

    async def measure(self, stand: Stand) -> Rows: ...


SCENARIOS = (
    append,
    publish_lag,
    between_processes,
    end_to_end,
    fan_out,
    storm,
    http_append,
    walk,
    timers,
    many_runs,
    peers,
    parts,
    idle_memory,
    scrape,
    growth,
    bloat,
)
