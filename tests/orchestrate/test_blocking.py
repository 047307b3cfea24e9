"""Nodes that make the event loop stand: cut at their time-out where that can be done, told of, and given up at last."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg
import pytest
from structlog.testing import capture_logs

from orchestrate.agents_for_tests import Count
from pipeline import Stages, stages
from runwire import END, Agent, Context
from runwire.orchestrate import StartRequest, Worker
from runwire.orchestrate.beat import Beat
from runwire.orchestrate.sessions import WorkerFacts, WorkerSession
from runwire.orchestrate.watch import Watch, WatchLimits
from runwire.telemetry.labels import EXTERNAL
from waiting import eventually

LEASE_LEFT = "SELECT extract(epoch FROM min(lease_until) - clock_timestamp()) FROM runs"
Standstill = Callable[[], Awaitable[None]]


def standing(standstill: Standstill, *, timeout_s: float, retries: int = 0) -> Agent[Count]:
    agent = Agent("standing", start="Stand", state=Count)

    @agent.node(to=END, timeout_s=timeout_s, retries=retries, backoff_s=0.0)
    async def stand(_ctx: Context, _state: Count) -> None:
        await standstill()

    return agent


def patient(open_: asyncio.Event) -> Agent[Count]:
    agent = Agent("patient", start="Rest", state=Count)

    @agent.node(to=END, timeout_s=60)
    async def rest(_ctx: Context, _state: Count) -> None:
        await open_.wait()

    return agent


async def sleeps() -> None:
    time.sleep(20)  # noqa: ASYNC251  # what is tested


async def spins_and_swallows() -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with contextlib.suppress(Exception):  # as much as most code swallows
            sum(range(1000))


def stand_until(freed: threading.Event, *, within_s: float) -> None:
    """Holds the thread in one call of C, which no signal ends: it waits for a mutex that it has itself."""
    libc = ctypes.CDLL(None)
    mutex = ctypes.create_string_buffer(128)  # zeros are PTHREAD_MUTEX_INITIALIZER

    def free() -> None:
        freed.wait(within_s)
        libc.pthread_mutex_unlock(mutex)

    libc.pthread_mutex_lock(mutex)
    threading.Thread(target=free).start()
    libc.pthread_mutex_lock(mutex)


async def reads_from_a_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.recv(1)


@contextlib.contextmanager
def threads_untraced() -> Iterator[None]:
    """Threads that start inside are not measured for coverage.

    CPython 3.11 holds a traced thread at the entry of a function while the main thread has a signal to take, and a
    main thread that is in one call of C takes none.
    """
    before = threading.gettrace()
    threading.settrace(None)
    try:
        yield
    finally:
        threading.settrace(before)


async def has_a_task_that_sleeps() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(sleeps())


@dataclass
class Watched:
    worker: Worker
    watch: Watch
    given_up: threading.Event = field(default_factory=threading.Event)


@asynccontextmanager
async def watched(
    s: Stages, limits: WatchLimits, *, at_giving_up: Callable[[], None] = lambda: None
) -> AsyncIterator[Watched]:
    """A worker that claims by itself, with a watch over this very event loop. `at_giving_up` runs in the watch's
    thread, at the moment at which the process would end.
    """
    beat = Beat()
    given_up = threading.Event()

    def give_up() -> None:
        at_giving_up()
        given_up.set()

    worker = s.worker(worker_id="w", lease_s=limits.lease_s, beat=beat)
    session = WorkerSession(s.database.session("watch"), WorkerFacts("w", s.agents.names, 10), settle_s=0.0)
    watch = Watch(
        session,
        beat=beat,
        held=worker.held,
        on_taken=lambda _taken: worker.wake(),
        blocked=s.metrics.loop_blocked,
        give_up=give_up,
        limits=limits,
    )
    async with watch:
        task = asyncio.create_task(worker.run())
        try:
            yield Watched(worker, watch, given_up)
        finally:
            await worker.drain(within_s=1)
            await task


def blocked_s(s: Stages, node: str) -> float:
    name = f'runwire_event_loop_blocked_seconds_total{{node="{node}"}}'
    [line] = [line for line in s.metrics.exposition()[0].decode().splitlines() if line.startswith(name)]
    return float(line.rsplit(" ", 1)[1])


@pytest.mark.parametrize("standstill", [sleeps, spins_and_swallows, reads_from_a_socket, has_a_task_that_sleeps])
async def test_a_node_that_stands_is_cut_at_its_time_out_and_the_runs_beside_it_go_on(
    database: str, standstill: Standstill
) -> None:
    opened = asyncio.Event()
    async with stages(database, standing(standstill, timeout_s=1.0), patient(opened)) as s:
        await s.control.start(StartRequest(agent="patient", run_id="beside"))
        await s.control.start(StartRequest(agent="standing", run_id="stands"))
        began = time.monotonic()
        async with watched(s, WatchLimits()) as w:

            async def failed() -> bool:
                return (await s.control.view("stands")).state == "failed"

            await eventually(failed, within_s=10)
            assert time.monotonic() - began < 5
            opened.set()
            await eventually(lambda: w.worker.active == 0)
            assert not w.given_up.is_set()
        assert (await s.control.view("stands")).error_code == "timeout"
        beside = await s.control.view("beside")
        assert (beside.state, beside.attempt) == ("finished", 1)


async def test_a_standing_node_is_named_with_file_and_line_in_log_metric_and_database(database: str) -> None:
    async with stages(database, standing(sleeps, timeout_s=2.5)) as s:
        with capture_logs() as lines:
            await s.control.start(StartRequest(agent="standing", run_id="stands"))
            async with watched(s, WatchLimits()) as w:
                await eventually(lambda: w.worker.active == 1)
                await eventually(lambda: w.worker.active == 0, within_s=10)
                await eventually(lambda: any(line["event"] == "loop_freed" for line in lines))
        [told] = [line for line in lines if line["event"] == "loop_blocked"]
        line = sleeps.__code__.co_firstlineno + 1
        assert (told["run_id"], told["agent"], told["node"]) == ("stands", "standing", "Stand")
        assert told["at"] == f"{__file__}:{line} sleeps"
        assert 2.0 < blocked_s(s, EXTERNAL) < 4.0  # these metrics know no agents
        row = await s.database.fetchrow("SELECT node, at, worker_id, blocked_s FROM run_blocks WHERE run_id = 'stands'")
        assert row is not None
        assert (row["node"], row["at"], row["worker_id"]) == ("Stand", told["at"], "w")
        assert row["blocked_s"] >= 1.0


async def test_leases_are_renewed_while_the_event_loop_stands(database: str) -> None:
    left: list[float] = []

    async def sample() -> None:
        connection = await asyncpg.connect(database)
        try:
            for _ in range(10):
                await asyncio.sleep(0.3)  # the period
                left.append(
                    await connection.fetchval(
                        "SELECT extract(epoch FROM min(lease_until) - clock_timestamp()) FROM runs"
                    )
                )
        finally:
            await connection.close()

    async def stands() -> None:
        thread = threading.Thread(target=lambda: asyncio.run(sample()))
        thread.start()
        thread.join()  # three seconds, with leases of one and a half

    opened = asyncio.Event()
    async with stages(database, standing(stands, timeout_s=20), patient(opened)) as s:
        await s.control.start(StartRequest(agent="patient", run_id="beside"))
        await s.control.start(StartRequest(agent="standing", run_id="stands"))
        async with watched(s, WatchLimits(heartbeat_s=0.4, lease_s=1.5)) as w:
            await eventually(lambda: w.worker.active == 2)
            opened.set()
            await eventually(lambda: w.worker.active == 0, within_s=15)
        assert len(left) == 10
        assert min(left) > 0
        for run_id in ("beside", "stands"):
            view = await s.control.view(run_id)
            assert (view.state, view.attempt) == ("finished", 1)


async def test_what_no_signal_cuts_is_given_up_and_only_its_own_run_is_blamed(database: str) -> None:
    freed = threading.Event()

    async def stands() -> None:
        stand_until(freed, within_s=30)

    owners: list[str | None] = []

    async def look() -> None:
        connection = await asyncpg.connect(database)
        try:
            owners.append(await connection.fetchval("SELECT lease_owner FROM runs WHERE run_id = 'beside'"))
        finally:
            await connection.close()

    def look_now() -> None:  # the freed event loop of this process, which does not end, would claim the run again
        thread = threading.Thread(target=lambda: asyncio.run(look()))
        thread.start()
        thread.join()
        freed.set()

    opened = asyncio.Event()
    async with stages(database, standing(stands, timeout_s=0.5), patient(opened)) as s:
        await s.control.start(StartRequest(agent="patient", run_id="beside"))
        await s.control.start(StartRequest(agent="standing", run_id="stands"))
        with capture_logs() as lines, threads_untraced():
            async with watched(s, WatchLimits(margin_s=1.0), at_giving_up=look_now) as w:
                await eventually(w.given_up.is_set, within_s=20)
                opened.set()
        assert owners[0] is None
        assert [line["node"] for line in lines if line["event"] == "loop_given_up"] == ["Stand"]


async def test_an_event_loop_that_no_node_holds_up_is_told_of_as_that(database: str) -> None:
    async with stages(database, standing(sleeps, timeout_s=1)) as s, watched(s, WatchLimits(unknown_s=1.0)) as w:
        time.sleep(2)  # noqa: ASYNC251  # what is tested
        await eventually(w.given_up.is_set)
        assert blocked_s(s, EXTERNAL) > 1


async def test_an_event_loop_that_is_freed_in_time_may_stand_again(database: str) -> None:
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'workers'::regclass"
    async with stages(database) as s, watched(s, WatchLimits(unknown_s=1.0)) as w:
        with capture_logs() as lines:

            def told(event: str) -> bool:
                return any(line["event"] == event for line in lines)

            async with s.database.transaction() as tx:
                await tx.execute("LOCK TABLE workers")  # the watch waits here, so that it hands over no run
                await eventually(lambda: s.database.fetchval(waits))
                time.sleep(2)  # noqa: ASYNC251  # what is tested
                await eventually(lambda: told("loop_freed"))
                assert told("loop_given_up")
            before = blocked_s(s, EXTERNAL)
            time.sleep(0.9)  # noqa: ASYNC251  # what is tested
            await eventually(lambda: blocked_s(s, EXTERNAL) > before + 0.5)
            assert not w.given_up.is_set()


async def exits() -> None:
    os._exit(9)


async def exits_in_a_thread() -> None:
    await asyncio.to_thread(os._exit, 9)


@pytest.mark.parametrize("end", [exits, exits_in_a_thread])
async def test_a_node_that_calls_os_exit_fails_and_the_process_lives(database: str, end: Standstill) -> None:
    async with stages(database, standing(end, timeout_s=5)) as s:
        await s.control.start(StartRequest(agent="standing", run_id="exits"))
        async with watched(s, WatchLimits()) as w:

            async def failed() -> bool:
                return (await s.control.view("exits")).state == "failed"

            await eventually(failed, within_s=10)
            assert w.worker.active == 0


async def test_a_child_that_a_node_forks_ends_as_it_asks_to(database: str) -> None:
    codes: list[int] = []

    async def forks() -> None:
        child = os.fork()
        if child == 0:
            os._exit(7)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))  # noqa: ASYNC222  # at once

    async with stages(database, standing(forks, timeout_s=5)) as s:
        await s.control.start(StartRequest(agent="standing", run_id="forks"))
        async with watched(s, WatchLimits()) as w:
            await eventually(lambda: codes, within_s=10)
            await eventually(lambda: w.worker.active == 0)
    assert codes == [7]
