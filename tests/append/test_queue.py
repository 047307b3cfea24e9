"""The queue's order: runs take turns, each run's appends keep their order, and no run is in two batches at once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline import raw, stages
from runwire.append.queue import Queue
from runwire.append.request import Checkpoint, Group, Request
from runwire.append.rota import PATIENCE_S, Rota
from runwire.clock import monotonic
from runwire.model.event import Source, debug_trace

KEEP = Checkpoint(None, "next", None)


def request(run_id: str, asked_at: float, *, alone: bool = False) -> Request:
    """`alone`: nothing joins it."""
    waiter: Any = None
    return Request(run_id, 1, None, Source.API, [debug_trace("x")], None, KEEP if alone else None, waiter, asked_at)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 3), st.booleans()),
            st.tuples(st.just("take"), st.integers(1, 6), st.just(False)),
            st.tuples(st.just("done"), st.integers(0, 3), st.just(False)),
        ),
        min_size=20,  # else they are some five long, mostly
        max_size=80,
    )
)
def test_nothing_is_lost_or_overtaken_and_no_run_is_in_two_batches(steps: list[tuple[str, int, bool]]) -> None:
    queue, under_way = Queue(), list[list[Group]]()
    put: dict[str, list[Request]] = defaultdict(list)
    stored: dict[str, list[Request]] = defaultdict(list)

    def take(most: int) -> None:
        first = queue.asked_at
        groups = queue.take(most)
        requests = [request for group in groups for request in group.requests]
        assert len(requests) <= most
        assert bool(groups) == (first is not None)
        assert not groups or groups[0].head.asked_at == first
        written = [group.head.run_id for batch in [*under_way, groups] for group in batch]
        assert len(written) == len(set(written))
        for one in requests:
            stored[one.run_id].append(one)
        if groups:
            under_way.append(groups)

    for nth, (kind, n, alone) in enumerate(steps):
        if kind == "put":
            put[f"r{n}"].append(one := request(f"r{n}", nth, alone=alone))
            queue.put(one)
        elif kind == "take":
            take(n)
        elif n < len(under_way):
            queue.done(under_way.pop(n))
        waiting = sum(map(len, put.values())) - sum(map(len, stored.values()))
        written = {group.head.run_id for batch in under_way for group in batch}
        behind = sum(len(put[run_id]) - len(stored[run_id]) for run_id in written)
        assert (len(queue), queue.ready) == (waiting, waiting - behind)
    while under_way or queue.ready:
        if under_way:
            queue.done(under_way.pop())
        take(2)
    assert stored == {run_id: requests for run_id, requests in put.items() if requests}
    assert len(queue) == 0


def test_what_waited_behind_its_run_comes_before_who_came_later() -> None:
    queue = Queue()
    queue.put(request("a", 0))
    first = queue.take(10)
    queue.put(request("a", 1))
    queue.put(request("b", 2))
    assert queue.asked_at == 2.0
    queue.done(first)
    assert [group.head.asked_at for group in queue.take(10)] == [1.0, 2.0]


async def test_a_second_writer_is_called_when_somebody_has_waited_whoever_waited_when_it_was_first_looked() -> None:
    queue = Queue()
    rota = Rota(queue, writers=2, batch_max=4)
    writers = [asyncio.create_task(rota.rest()) for _ in range(2)]
    await asyncio.sleep(0)
    rota.call()
    queue.put(request("earlier", monotonic()))
    rota.call()
    queue.take(1)
    queue.put(request("later", asked_at := monotonic() + PATIENCE_S))
    async with asyncio.timeout(5):
        await asyncio.gather(*writers)
    assert monotonic() >= asked_at + PATIENCE_S
    rota.close()


async def test_a_second_writer_is_called_when_it_is_worth_a_commit() -> None:
    queue = Queue()
    rota = Rota(queue, writers=2, batch_max=4)
    writers = [asyncio.create_task(rota.rest()) for _ in range(2)]
    await asyncio.sleep(0)

    async def awake() -> int:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return sum(writer.done() for writer in writers)

    def put(run_id: str) -> None:
        queue.put(request(run_id, monotonic()))
        rota.call()

    rota.call()
    assert await awake() == 1
    for n in range(3):
        put(f"r{n}")
        assert await awake() == 1
    put("r3")
    assert await awake() == 2
    assert rota.share == 4
    rota.close()


async def test_a_commit_that_takes_its_time_holds_up_nobody_else(database: str) -> None:
    async with stages(database, append_connections=2) as s:
        fences = {run_id: await s.started_run(run_id) for run_id in ("held", "free")}
        blocker = await raw(database)
        await blocker.execute("BEGIN")
        await blocker.execute("SELECT 1 FROM runs WHERE run_id = 'held' FOR UPDATE")
        held = s.log.submit("held", [debug_trace("x")], fence=fences["held"], source=Source.API)
        await asyncio.sleep(0)  # it is under way
        async with asyncio.timeout(5):
            await s.log.append("free", [debug_trace("x")], fence=fences["free"], source=Source.API)
        assert not held.done()
        await blocker.close()
        assert (await held).last_seq == 2
