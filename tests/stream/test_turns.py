"""Hubs write in turns: nobody for longer than a turn, everybody in the end, whatever one of them does."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from runwire.stream.deliveries import Deliveries
from runwire.stream.turns import Turns
from runwire.stream.writes import Writes
from stream.feed import fresh_metrics


class Desk:
    """Has `left` clients to write to; notes each of its turns."""

    def __init__(self, run_id: str, left: int, turns: list[tuple[str, int]]) -> None:
        self.run_id = run_id
        self.left = left
        self.flush_due = True
        self.turns = turns

    def flush(self, at_most: int, _writes: Writes) -> int:
        if self.left < 0:
            raise RuntimeError("a defect")
        written = min(at_most, self.left)
        self.turns.append((self.run_id, written))
        self.left -= written
        self.flush_due = self.left > 0
        return written


def turns_of(writes: int) -> Turns:
    return Turns(Writes(Deliveries(fresh_metrics())), writes_a_turn=writes)


async def test_a_turn_of_the_loop_writes_so_much_and_who_has_more_waits_for_the_others() -> None:
    shared = turns_of(10)
    noted: list[tuple[str, int]] = []
    for run_id, clients in (("large", 25), ("none", 0), ("small", 3)):
        shared.take(Desk(run_id, clients, noted))
    assert noted == []
    seen = []
    for _ in range(5):
        await asyncio.sleep(0)
        seen.append(noted[:])
        noted.clear()
    assert seen == [[("large", 10)], [("none", 0), ("small", 3), ("large", 6)], [("large", 9)], [], []]


async def test_a_hub_that_raises_is_logged_and_stands_in_nobodys_way() -> None:
    shared = turns_of(10)
    noted: list[tuple[str, int]] = []
    broken = Desk("broken", -1, noted)
    shared.take(broken)
    shared.take(Desk("whole", 2, noted))
    with capture_logs() as logged:
        await asyncio.sleep(0)
    assert [(line["event"], line["task"], line["run_id"]) for line in logged] == [("task_failed", "flush", "broken")]
    assert noted == [("whole", 2)]
    assert not broken.flush_due
