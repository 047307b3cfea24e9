"""Fan-outs write in slots: nobody for longer than a tick, everybody in the end, whatever one of them does."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from runwire.stream.fanout import Deliveries, LoopSender, Scheduler
from stream.feed import fresh_metrics


class Desk:
    """A fan-out with `left` clients to write to; notes the slots it used in each tick."""

    def __init__(self, run_id: str, left: int, noted: list[tuple[str, int]]) -> None:
        self.run_id = run_id
        self.left = left
        self.queued = True
        self.noted = noted

    def write(self, slots: int) -> int:
        if self.left < 0:
            raise RuntimeError("a defect")
        written = min(slots, self.left)
        self.noted.append((self.run_id, written))
        self.left -= written
        self.queued = self.left > 0
        return written


def scheduler_of(slots: int) -> Scheduler:
    return Scheduler(LoopSender(), Deliveries(fresh_metrics()), slots_a_tick=slots)


async def test_a_tick_has_so_many_slots_and_a_fan_out_with_more_clients_waits_for_the_others() -> None:
    shared = scheduler_of(10)
    noted: list[tuple[str, int]] = []
    for run_id, clients in (("large", 25), ("none", 0), ("small", 3)):
        shared.queue(Desk(run_id, clients, noted))
    assert noted == []
    seen = []
    for _ in range(5):
        await asyncio.sleep(0)
        seen.append(noted[:])
        noted.clear()
    assert seen == [[("large", 10)], [("none", 0), ("small", 3), ("large", 6)], [("large", 9)], [], []]


async def test_a_fan_out_that_raises_is_logged_and_stands_in_nobodys_way() -> None:
    shared = scheduler_of(10)
    noted: list[tuple[str, int]] = []
    broken = Desk("broken", -1, noted)
    shared.queue(broken)
    shared.queue(Desk("whole", 2, noted))
    with capture_logs() as logged:
        await asyncio.sleep(0)
    assert [(line["event"], line["task"], line["run_id"]) for line in logged] == [("task_failed", "flush", "broken")]
    assert noted == [("whole", 2)]
    assert not broken.queued
