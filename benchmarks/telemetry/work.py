"""The work whose CPU is measured: golden runs from claim to last byte, and appends as fast as they go."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from benchmarks.telemetry.parts import Telemetry
from runwire.agents.golden import golden
from runwire.append import Change, EventLog
from runwire.bus.memory import MemoryBus
from runwire.db import Database
from runwire.model.event import RUN_STARTED, Source, debug_trace
from runwire.model.graph import Agents
from runwire.model.run import RunState
from runwire.orchestrate import RunControl, StartRequest, Worker
from runwire.orchestrate.settings import OrchestrateSettings
from runwire.publish import Publisher, PublishWorker
from runwire.settings import Settings
from runwire.stream import Cursor, LogReader, NothingLeft, Outlet, Streams
from runwire.telemetry.traceparent import mint_trace

SAMPLED_ONE_IN = 20
GOLDEN_EVENTS = 13
APPEND_RUNS = 100
_EVENT = (debug_trace("a.b"),)


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU time of this process, all its threads, and the events it took through append, publish and delivery."""

    seconds: float
    events: int

    @property
    def us_per_event(self) -> float:
        return self.seconds / self.events * 1e6


class Pipeline:
    """The stages of one process as `serve` joins them, with one client per run."""

    def __init__(
        self, name: str, *, database: Database, log: EventLog, streams: Streams, telemetry: Telemetry, clients: str
    ) -> None:
        self._database = database
        self._log = log
        self._streams = streams
        self._telemetry = telemetry
        self._clients = clients
        self._agents = Agents([golden])
        self._control = RunControl(
            database,
            self._agents,
            on_claimable=lambda _agent: None,
            on_cancel=lambda _run: None,
            first_fence=lambda: 1,
        )
        self._prefixes = (f"{name}-{n}" for n in itertools.count())
        self._appended_to = [f"{name}-appends-{n}" for n in range(APPEND_RUNS)]

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Inside, the runs that `appends` appends to are open and followed."""
        await self._start(self._appended_to, external=True)
        started = Change(RunState.STARTED)
        for run_id in self._appended_to:
            await self._log.append(run_id, [RUN_STARTED], fence=1, source=Source.API, change=started)
        async with self._followed(self._appended_to):
            yield

    async def golden_runs(self, count: int) -> Cpu:
        """Walks `count` runs with a client each. The clock runs from the first claim until every stream has ended."""
        prefix = next(self._prefixes)
        run_ids = [f"{prefix}-{n}" for n in range(count)]
        await self._start(run_ids, external=False)
        worker = Worker(
            self._database,
            self._log,
            self._agents,
            metrics=self._telemetry.metrics,
            spans=self._telemetry.spans,
            worker_id="bench",
            settings=OrchestrateSettings(),
        )
        async with self._followed(run_ids) as streams:
            began = time.process_time()
            walking = asyncio.create_task(worker.run())
            await asyncio.gather(*streams)
            self._telemetry.flush()
            used = time.process_time() - began
            walking.cancel()
            await asyncio.gather(walking, return_exceptions=True)
        return Cpu(used, count * GOLDEN_EVENTS)

    async def appends(self, count: int, *, callers: int = 32) -> Cpu:
        """`callers` append one event at a time, each after its last, to runs with a client each."""
        run_ids = self._appended_to
        goal = self._sent() + count
        left = count

        async def call(nth: int) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                nth += callers
                await self._log.append(run_ids[nth % len(run_ids)], _EVENT, fence=1, source=Source.API)

        began = time.process_time()
        await asyncio.gather(*(call(nth) for nth in range(callers)))
        while self._sent() < goal:
            await asyncio.sleep(0.002)
        self._telemetry.flush()
        return Cpu(time.process_time() - began, count)

    def _sent(self) -> int:
        watches = [self._streams.watch_of(run_id) for run_id in self._appended_to]
        return sum(watch.fanout.sent for watch in watches if watch is not None)

    async def _start(self, run_ids: Sequence[str], *, external: bool) -> None:
        for n, run_id in enumerate(run_ids):
            sampled = n % SAMPLED_ONE_IN == 0
            await self._control.start(
                StartRequest(
                    agent="bench" if external else "golden",
                    run_id=run_id,
                    external=external,
                    lease_s=3600,
                    traceparent=str(mint_trace(sampled=sampled)),
                    sampled=sampled,
                )
            )

    @asynccontextmanager
    async def _followed(self, run_ids: Sequence[str]) -> AsyncIterator[list[asyncio.Task[None]]]:
        host, _, port = self._clients.rpartition(":")
        attached = [asyncio.Event() for _ in run_ids]

        async def follow(run_id: str, ready: asyncio.Event) -> None:
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, int(port))
            try:
                async with self._streams.attach(run_id, cursor=Cursor(0)) as session:
                    assert not isinstance(session, NothingLeft)
                    ready.set()
                    await session.run(Outlet.of(transport))
            finally:
                transport.close()

        streams = [asyncio.create_task(follow(*one)) for one in zip(run_ids, attached, strict=True)]
        try:
            for one in attached:
                await one.wait()
            yield streams
        finally:
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)


@asynccontextmanager
async def pipeline(name: str, dsn: str, telemetry: Telemetry, *, clients: str) -> AsyncIterator[Pipeline]:
    """The stages, joined by the memory bus. Other names than `name` do not meet its runs."""
    metrics, spans = telemetry.metrics, telemetry.spans
    bus = MemoryBus()
    async with AsyncExitStack() as running:
        database = await running.enter_async_context(Database(dsn, on_wait=metrics.db_pool_wait.observe))
        publisher = PublishWorker(Publisher(database, bus, metrics=metrics, spans=spans, publisher_id=name))
        publishing = asyncio.create_task(publisher.run())

        async def finish() -> None:
            publisher.stop()
            await publishing

        running.push_async_callback(finish)
        log = await running.enter_async_context(EventLog(database, metrics=metrics, on_committed=publisher.mark_dirty))
        streams = await running.enter_async_context(
            Streams(bus=bus, reader=LogReader(database), settings=Settings(), metrics=metrics, spans=spans)
        )
        made = Pipeline(name, database=database, log=log, streams=streams, telemetry=telemetry, clients=clients)
        await running.enter_async_context(made.opened())
        yield made
