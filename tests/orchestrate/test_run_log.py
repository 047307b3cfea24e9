"""The log of one run as its owner writes it: a belief that is wrong is found out at once."""

from __future__ import annotations

import asyncio

import pytest

from pipeline import stages
from runwire.append import Change, Stored
from runwire.db import Transaction
from runwire.errors import FenceStale, RunClosed, SeqConflict
from runwire.model.event import RUN_FINISHED, debug_trace
from runwire.model.run import RunState
from runwire.orchestrate.run_log import RunLog
from waiting import eventually


async def test_a_trace_after_the_fence_was_lost_raises_that(database: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")
        log = RunLog(s.log, "r", fence=fence + 1, last_seq=1)
        log.trace("a")

        def refused() -> bool:
            try:
                log.trace("b")
            except FenceStale:
                return True
            return False

        await eventually(refused)
        await log.aclose()
        assert len(await s.events("r")) == 1


async def test_traces_go_out_in_order_and_before_what_follows(database: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")
        log = RunLog(s.log, "r", fence=fence, last_seq=1)
        log.trace("a")
        await asyncio.sleep(0)
        log.trace("b")
        await log.append(debug_trace("c"))
        log.trace("d")
        await log.aclose()  # what is not stored by now belongs to nobody
        assert [fn for _, _, fn in await s.events("r")][:4] == [None, "a", "b", "c"]


async def test_a_seq_that_is_not_where_the_owner_thinks_is_an_error_at_the_first_try(database: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")
        with pytest.raises(SeqConflict):
            await RunLog(s.log, "r", fence=fence, last_seq=7).append(debug_trace("a"))
        closing = RunLog(s.log, "r", fence=fence, last_seq=1)
        await closing.append(RUN_FINISHED, change=Change(RunState.FINISHED))
        with pytest.raises(RunClosed):
            await RunLog(s.log, "r", fence=fence, last_seq=1).append(debug_trace("a"))


async def test_a_node_may_append_while_its_traces_go_out_and_be_cancelled_meanwhile(database: str) -> None:
    async with stages(database) as s:
        fence = await s.started_run("r")
        log = RunLog(s.log, "r", fence=fence, last_seq=1)
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow(_transaction: Transaction, _stored: Stored) -> None:
            begun.set()
            await go_on.wait()

        log.trace("a")
        node = asyncio.create_task(log.append_from_node(debug_trace("b"), companion=slow))
        await begun.wait()
        log.trace("c")
        node.cancel()
        with pytest.raises(asyncio.CancelledError):
            await node
        following = asyncio.create_task(log.append(debug_trace("d")))
        await asyncio.sleep(0)
        go_on.set()
        await following
        await log.aclose()
        assert [fn for _, _, fn in await s.events("r")][1:] == ["a", "b", "c", "d"]
