"""The pipeline under test: two replicas of every stage on one Postgres, and every fault a switch away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from invariants.faults import FaultyBus, ForgetfulDatabase, LossyReader, PublisherCrashed
from invariants.model import RunModel
from invariants.sse_client import Wire
from runwire.append import EventLog
from runwire.bus import BusReader, BusWriter, Published
from runwire.bus.memory import MemoryBus
from runwire.bus.postgres import PostgresBusReader, PostgresBusWriter
from runwire.clock import monotonic
from runwire.db import Database
from runwire.model.graph import END, Agent, Agents, Context
from runwire.orchestrate import RunControl, Worker
from runwire.orchestrate.external import LeaseReaper
from runwire.orchestrate.settings import OrchestrateSettings
from runwire.publish import Publisher
from runwire.publish.settings import PublishSettings
from runwire.settings import Settings
from runwire.stream import Cursor, LogReader, NothingLeft, Session, Streams
from runwire.telemetry.metrics import DisconnectReason, Metrics
from runwire.telemetry.spans import NO_SPANS
from waiting import eventually

REPLICAS = (0, 1)
LONG_S = 3600.0
FAR_OFF_S = 1e6
HOLDING = "holding"


@dataclass(slots=True)
class Held:
    """The state of the agent whose node waits for the test."""


class Client:
    """Somebody who reads one run from `start` (exclusive), over as many connections as it takes."""

    def __init__(self, run: RunModel, *, start: int, on_defect: Callable[[str], None]) -> None:
        self.run = run
        self.start = start
        self.received: list[int] = []
        self.wire: Wire | None = None
        self.task: asyncio.Task[None] | None = None
        self.end: dict[str, Any] | None = None
        self.session: Session | None = None
        self._on_defect = on_defect

    @property
    def cursor(self) -> int:
        return self.start + len(self.received)

    @property
    def connected(self) -> bool:
        return self.task is not None

    @property
    def complete(self) -> bool:
        return self.cursor >= self.run.last_seq and (self.end is not None or not self.run.closed)

    @property
    def at_rest(self) -> bool:
        """Its stream waits for something that only the test can bring about."""
        if self.task is None or self.task.done():
            return True
        return self.session is not None and self.session.is_parked

    def connect(self, streams: Streams, *, chunked: bool) -> asyncio.Task[None]:
        self.wire = Wire(chunked=chunked, on_event=self._take, on_defect=self._on_defect)
        self.task = asyncio.create_task(self._read(streams, self.wire), name=f"client of {self.run.run_id}")
        return self.task

    async def _read(self, streams: Streams, wire: Wire) -> None:
        cursor = self.cursor
        async with streams.attach(self.run.run_id, cursor=Cursor(cursor, resumed=bool(self.received))) as session:
            if isinstance(session, NothingLeft):
                self.end = {"runId": session.run_id, "state": session.state, "lastSeq": session.last_seq}
                return
            self.session = session
            outlet = wire.outlet()
            prelude = session.prelude
            outlet.write(b"%x\r\n%b\r\n" % (len(prelude), prelude) if outlet.chunked else prelude)
            if not wire.stalled and wire.reader.last_id != cursor:
                self._on_defect(f"a client at {cursor} was told to resume at {wire.reader.last_id}")
            reason = await session.run(outlet)
            wire.flow()
            if (reason is DisconnectReason.TERMINAL) != (wire.reader.end is not None):
                self._on_defect(f"ended as {reason} with end frame {wire.reader.end}")
            self.end = wire.reader.end

    def _take(self, seq: int, event: dict[str, Any]) -> None:
        """Every event is the next one, is what the log has, and was published before it came."""
        run = self.run
        if seq != self.cursor + 1:
            self._on_defect(f"a client of {run.run_id} at {self.cursor} got {seq}")
        elif seq > run.offered:
            self._on_defect(f"a client of {run.run_id} got {seq} when only {run.offered} was published")
        else:
            type_, label = run.log[seq - 1]
            expected = {"runId": run.run_id, "seq": seq, "type": type_, "v": 1, "source": "outbox"}
            if label is not None:
                expected["fn" if type_ == "DebugTrace" else "name"] = label
            if expected != {key: value for key, value in event.items() if key != "ts"} or event["ts"] < 1:
                self._on_defect(f"a client got {event} instead of {expected}")
        self.received.append(seq)

    async def disconnect(self, *, arrived: float) -> None:
        """The connection breaks; `arrived` is the share of what was under way that still got here."""
        task, self.task, self.session = self.task, None, None
        if self.wire is not None:
            self.wire.cut(after=arrived)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class World:
    """Enter it once per test; `begin` and `end` an example. Steps only: no stage runs by itself."""

    def __init__(self, dsn: str, *, bus: str) -> None:
        self.dsn = dsn
        self.bus_kind = bus
        self.metrics = Metrics({})
        self.examples = 0
        self.arrivals: dict[str, list[asyncio.Future[str]]] = {}
        self.hints_to: tuple[int, ...] = REPLICAS
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        enter = self._stack.enter_async_context
        self.database = await enter(Database(self.dsn, pool_size=4))
        self.forgetful = [ForgetfulDatabase(self.dsn), ForgetfulDatabase(self.dsn)]
        self.logs = [
            await enter(EventLog(database, metrics=self.metrics, on_committed=self._hint))
            for database in self.forgetful
        ]
        self._writer: BusWriter
        self._readers: Sequence[BusReader]
        if self.bus_kind == "memory":
            memory = MemoryBus()
            self._writer, self._readers = memory, [memory, memory]
        else:
            session = self.database.session("bus")
            self._stack.push_async_callback(session.aclose)
            self._writer = PostgresBusWriter(session)
            readers = [PostgresBusReader(self.database), PostgresBusReader(self.database)]
            for reader in readers:
                await enter(_running(reader.listener.run()))
                await asyncio.wait_for(reader.listener.connected.wait(), 10)
            self._readers = readers
        agents = Agents([_holding_agent(self.arrivals)])
        self.control = RunControl(self.database, agents, on_claimable=_ignore, on_cancel=_ignore, first_fence=lambda: 1)
        self._agents = agents
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def begin(self) -> None:
        self.examples += 1
        self.runs: list[RunModel] = []
        self.clients: list[Client] = []
        self.defects: list[str] = []
        self.hints_to = REPLICAS
        self.arrivals.clear()
        self.bus = FaultyBus(self._writer, on_taken=self._note_taken)
        self.readers = [LossyReader(reader, on_defect=self.violation) for reader in self._readers]
        settings = Settings(sse_ring_events=4, sse_slow_bytes=65_536)
        self.streams = [
            Streams(bus=reader, reader=LogReader(self.database), settings=settings, metrics=self.metrics)
            for reader in self.readers
        ]
        self.publishers = [self.new_publisher(), self.new_publisher()]
        self.workers = [
            Worker(
                self.database,
                self.logs[n],
                self._agents,
                metrics=self.metrics,
                spans=NO_SPANS,
                worker_id=f"worker-{n}",
                settings=OrchestrateSettings(lease_s=LONG_S),
            )
            for n in REPLICAS
        ]
        self.reaper = LeaseReaper(self.database, self.logs[0], metrics=self.metrics, owner="reaper")

    async def end(self) -> None:
        for client in self.clients:
            await client.disconnect(arrived=0.0)
        for streams in self.streams:
            await streams.__aexit__(None, None, None)
        walks = [task for task in asyncio.all_tasks() if task.get_name().startswith("walk ")]
        for walk in walks:
            walk.cancel()
        await asyncio.gather(*walks, return_exceptions=True)
        for publisher in self.publishers:
            await publisher.aclose()
        for database in self.forgetful:
            database.answers_to_lose = 0
        # Every example finds empty tables, so that one that failed cannot make the next one fail.
        await self.database.execute("DELETE FROM runs")
        await self.database.execute("DELETE FROM run_events")

    # ------------------------------------------------------------------ parts

    def new_publisher(self) -> Publisher:
        return Publisher(
            self.database,
            self.bus,
            metrics=self.metrics,
            spans=NO_SPANS,
            settings=PublishSettings(publish_batch_events=40, publish_backoff_max_s=1e-9),
            park_after_s=0.0,
        )

    def new_run_id(self) -> str:
        return f"e{self.examples}-{len(self.runs)}"

    def violation(self, what: str) -> None:
        self.defects.append(what)

    def _hint(self, run_ids: Sequence[str]) -> None:
        for n in self.hints_to:
            self.publishers[n].mark_dirty(run_ids, by="local")

    def _note_taken(self, message: Published) -> None:
        run = next((run for run in self.runs if run.run_id == message.run_id), None)
        events = message.events or ()
        if run is None or [event.seq for event in events] != list(range(message.first_seq, message.last_seq + 1)):
            self.violation(f"the bus got {message}")
            return
        labels = [(str(event.type), event.name or event.fn) for event in events]
        if (wrong := run.offer(message.first_seq, labels)) is not None:
            self.violation(wrong)

    # ------------------------------------------------------------------ steps

    async def publish(self, n: int) -> int:
        """One step of a publisher; after a crash a new one stands in its place, which knows nothing."""
        try:
            return await self.publishers[n].publish_pending()
        except PublisherCrashed:
            await self.restart_publisher(n)
            return 0

    async def restart_publisher(self, n: int) -> None:
        """A process takes longer to come than the server takes to roll back what the last one left."""
        await self.publishers[n].aclose()

        async def rolled_back() -> bool:
            left = await self.database.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'runwire publish' AND state LIKE 'idle in transaction%'"
                " AND backend_xid IS NOT NULL"  # not one that has only begun its next transaction: it holds nothing
            )
            return bool(left == 0)

        await eventually(rolled_back, within_s=10)
        self.publishers[n] = self.new_publisher()

    async def look(self, n: int) -> None:
        """One step of the shared loops of a replica's streams: find missing events and read them."""
        for _ in range(10):  # silent runs are asked about in every tenth check
            await self.streams[n].check(monotonic() + FAR_OFF_S)
        await self.streams[n].catch_up()

    async def settle(self) -> None:
        """Until every stream has done what it can without further help."""
        await asyncio.sleep(0)
        await eventually(lambda: all(client.at_rest for client in self.clients), within_s=20)
        for client in self.clients:
            task = client.task
            if task is not None and task.done():
                client.task = client.session = None
                task.result()

    async def terminate(self, application_name: str, *, waiting_for: str | None = None) -> int:
        """Kills the backends of this database that call themselves so (and wait for such a thing); returns how many."""
        killed: int = await self.database.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE $1"
            " AND ($2::text IS NULL OR wait_event_type = $2)",
            application_name,
            waiting_for,
        )
        return killed

    async def publish_everything(self) -> None:
        """Faults are over: sweeps and publishes until there is nothing left."""
        self.bus.recover()
        for _ in range(1000):
            found = await self.publishers[0].sweep()
            if found == 0 and await self.publish(0) == 0:
                return
            while await self.publish(0):
                pass
        raise AssertionError("the outbox never runs empty")


def _ignore(_: object) -> None:
    return None


def _holding_agent(arrivals: dict[str, list[asyncio.Future[str]]]) -> Agent[Held]:
    """An agent of one node, which goes where and when the test says."""
    agent = Agent(HOLDING, start="Hold", state=Held)

    @agent.node(to=("Hold", END), timeout_s=LONG_S)
    async def hold(context: Context, _state: Held) -> str:
        gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        arrivals.setdefault(context.run_id, []).append(gate)
        return await gate

    return agent


@asynccontextmanager
async def _running(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def labels_of(rows: Iterable[Any]) -> list[tuple[str, str | None]]:
    return [(row["type"], row["label"]) for row in rows]
