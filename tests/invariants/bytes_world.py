"""Two processes that write content and two that show it, over one PostgreSQL; each can be lost and come back anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from content.plane import Plane
from invariants.bytes_clients import Follower, ShowingProcess, Viewer
from invariants.bytes_writers import LONG_S, ForgetfulDatabase, Hand, WriterProcess, scribe
from invariants.faults import FaultyBus, PublisherCrashed
from runwire.append import EventLog
from runwire.bus.memory import MemoryBus
from runwire.content.part_metrics import PartMetrics
from runwire.content.part_writer import PartWriter, Written
from runwire.content.parts import PartReader, Parts
from runwire.db import Database
from runwire.errors import BusUnavailable
from runwire.model.graph import Agents
from runwire.orchestrate import RunControl, Worker
from runwire.orchestrate.external_parts import ExternalParts
from runwire.orchestrate.node_parts import PartDesk, PartLimits
from runwire.orchestrate.settings import OrchestrateSettings
from runwire.publish import Publisher
from runwire.publish.settings import PublishSettings
from runwire.telemetry.exposition import Exposition
from runwire.telemetry.metrics import Metrics
from runwire.telemetry.spans import NO_SPANS
from waiting import eventually

PAIR = (0, 1)


class BytesWorld:
    """Enter it once per test; `begin` and `end` an example."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn = dsn
        self.folder = folder
        self.examples = 0
        self.hands: dict[str, list[Hand]] = {}
        self.defects: list[str] = []
        self.hints_lost = False
        self.stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.database = await self.stack.enter_async_context(Database(self.dsn, pool_size=6))
        self.plane = Plane(self.database, self.folder)
        self.bus_itself = MemoryBus()
        self.metrics = Metrics({})
        self.agents = Agents([scribe(self.hands)])
        self.control = RunControl(
            self.database, self.agents, on_claimable=_ignore, on_cancel=_ignore, first_fence=lambda: 1
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stack.aclose()

    async def begin(self) -> None:
        self.examples += 1
        self.defects.clear()
        self.hands.clear()
        self.hints_lost = False
        self.bus = FaultyBus(self.bus_itself, on_taken=lambda _message: None)
        self.publisher = self._new_publisher()
        self.shows = [await self._new_shows() for _ in PAIR]
        self.writes = [await self._new_writer(n) for n in PAIR]
        self.viewers: list[Viewer] = []
        self.followers: list[Follower] = []

    async def end(self) -> None:
        for viewer in self.viewers:
            await viewer.drop()
        for process in self.shows:
            await process.aclose()
        for writer in self.writes:
            await writer.die()
        await self.publisher.aclose()
        await self.database.execute("DELETE FROM archived_runs")
        await self.database.execute("DELETE FROM archive_batches")
        await self.database.execute("DELETE FROM runs")
        await self.database.execute("DELETE FROM run_events")

    def violation(self, what: str) -> None:
        self.defects.append(what)

    # ------------------------------------------------------------------ processes

    async def _new_writer(self, n: int) -> WriterProcess:
        stack = AsyncExitStack()
        database = ForgetfulDatabase(self.dsn, pool_size=2)
        await database.__aenter__()
        log = await stack.enter_async_context(EventLog(database, metrics=self.metrics, on_committed=self._committed))
        writer = await stack.enter_async_context(
            PartWriter(
                database,
                metrics=PartMetrics(Exposition()),
                linger_s=0.001,
                on_written=self._written(n),
                on_ended=self._ended,
            )
        )
        plane = Plane(database, self.folder)
        reader = PartReader(database, artifacts=plane.reader)
        desk = PartDesk(Parts(database), writer, PartLimits(rate=1 << 40), artifacts=plane.artifacts, reader=reader)
        worker = Worker(
            database,
            log,
            self.agents,
            metrics=self.metrics,
            spans=NO_SPANS,
            worker_id=f"worker-{n}",
            settings=OrchestrateSettings(lease_s=LONG_S, losses_max=100),
            artifacts=plane.artifacts,
            desk=desk,
        )
        return WriterProcess(database, log, writer, worker, ExternalParts(log, desk), stack)

    async def restart_writer(self, n: int) -> None:
        """SIGKILL, and the same again from nothing."""
        await self.writes[n].die()
        self.writes[n] = await self._new_writer(n)

    async def end_leases(self, run_ids: Sequence[str]) -> None:
        await self.database.execute(
            "UPDATE runs SET lease_until = now() - interval '1 s' WHERE run_id = ANY ($1::text[])", run_ids
        )

    async def restart_shows(self, n: int) -> None:
        for viewer in self.viewers:
            if viewer.process is self.shows[n]:
                await viewer.drop(arrived=0.5)
        await self.shows[n].aclose()
        self.shows[n] = await self._new_shows()

    async def _new_shows(self) -> ShowingProcess:
        return await ShowingProcess(self.database, self.bus_itself, self.plane.reader, on_defect=self.violation).open()

    def _new_publisher(self) -> Publisher:
        return Publisher(
            self.database,
            self.bus,
            metrics=self.metrics,
            spans=NO_SPANS,
            settings=PublishSettings(publish_batch_events=40, publish_backoff_max_s=1e-9),
            park_after_s=0.0,
        )

    # ------------------------------------------------------------------ steps

    async def claim(self, n: int, run_ids: Sequence[str]) -> None:
        """The process claims these runs, which are all that can be claimed, and is inside their nodes afterwards."""
        process = self.writes[n]
        entered = {run_id: len(self.hands.get(run_id, ())) for run_id in run_ids}
        assert await process.worker.claim() == len(run_ids)
        for run_id in run_ids:
            old = {task for other in self.writes for task in other.walks.values()}
            [walk] = [t for t in asyncio.all_tasks() if t.get_name() == f"walk {run_id}" and t not in old]
            process.walks[run_id] = walk
        for run_id, before in entered.items():
            await self.entered(run_id, before)

    async def entered(self, run_id: str, before: int) -> None:
        """Returns when the run is in its node once more than so many times before."""
        await eventually(lambda: len(self.hands.get(run_id, ())) > before, within_s=20)

    async def publish(self, *, sweep: bool = True) -> None:
        """Publishes what there is, unless the bus refuses or the publisher dies of it."""
        try:
            if sweep:
                await self.publisher.sweep()
            while await self.publisher.publish_pending():
                pass
        except BusUnavailable:
            return
        except PublisherCrashed:
            await self.publisher.aclose()
            self.publisher = self._new_publisher()

    async def quiet(self) -> None:
        """Until the clients have done what they can without further help."""

        def looking() -> bool:
            return any(task.get_name().startswith(("mixed step", "positions")) for task in asyncio.all_tasks())

        async def still() -> bool:
            for _ in range(5):
                await asyncio.sleep(0)
                if looking():
                    return False
            return True

        await eventually(still, within_s=20)
        for viewer in self.viewers:
            if viewer.task is not None and viewer.task.done():
                task, viewer.task = viewer.task, None
                task.result()

    def _committed(self, run_ids: Sequence[str]) -> None:
        self.publisher.mark_dirty(run_ids, by="local")

    def _written(self, n: int) -> Callable[[Sequence[Written]], None]:
        """News for the clients of the same process, which has the bytes; the others get a hint, or not."""

        def written(pieces: Sequence[Written]) -> None:
            self.shows[n].feed.written(pieces)
            if not self.hints_lost:
                self.shows[1 - n].feed.hint({each.run_id for each in pieces})

        return written

    def _ended(self, run_id: str) -> None:
        for process in self.shows:
            if not self.hints_lost:
                process.feed.hint([run_id])


def _ignore(_: object) -> None:
    return None
