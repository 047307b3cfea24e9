"""Processes that show content, and their clients: viewers of mixed streams, and followers of one part."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from content.transcript import Transcript
from crash.wire import Body
from invariants.faults import LossyReader
from runwire.bus import BusReader
from runwire.content.part_feed import PartFeed
from runwire.content.part_metrics import PartMetrics
from runwire.content.parts import PartReader
from runwire.content.reading import ArtifactReader
from runwire.db import Database
from runwire.errors import PartReset
from runwire.server.part_stream import PartReads, PartTail
from runwire.settings import Settings
from runwire.stream import LogReader, MixedStreams, NothingLeft, Outlet, Streams, parse_mixed_cursor
from runwire.telemetry.exposition import Exposition
from runwire.telemetry.metrics import Metrics


class ShowingProcess:
    """A process with clients."""

    def __init__(
        self, database: Database, bus: BusReader, artifacts: ArtifactReader, *, on_defect: Callable[[str], None]
    ) -> None:
        metrics = Metrics({})
        self.feed = PartFeed()
        self.reader = LossyReader(bus, on_defect=on_defect)
        self.parts = PartReader(database, artifacts=artifacts)
        log = LogReader(database)
        # PostgreSQL is looked at soon after the bus lost a message.
        self.streams = Streams(bus=self.reader, reader=log, settings=Settings(sse_silence_s=0.3), metrics=metrics)
        part_metrics = PartMetrics(Exposition())
        self.mixed = MixedStreams(self.streams, log, self.parts, self.feed, metrics=part_metrics)
        self.reads = PartReads(self.feed, part_metrics)

    async def open(self) -> ShowingProcess:
        await self.streams.__aenter__()
        await self.mixed.__aenter__()
        return self

    async def aclose(self) -> None:
        await self.mixed.__aexit__(None, None, None)
        await self.streams.__aexit__(None, None, None)


class Viewer:
    """A client of one run's mixed stream, over as many connections as it takes. `held`: what comes stays on its way."""

    def __init__(self, run_id: str, *, names: frozenset[str] | None, on_defect: Callable[[str], None]) -> None:
        self.transcript = Transcript(run_id)
        self.names = names
        self.task: asyncio.Task[None] | None = None
        self.process: ShowingProcess | None = None
        self.held = False
        self.over = False
        self._unread = b""
        self._body = Body(chunked=False)
        self._on_defect = on_defect

    @property
    def connected(self) -> bool:
        return self.task is not None and not self.task.done()

    def connect(self, process: ShowingProcess) -> None:
        self._unread, self._body, self.process = b"", Body(chunked=False), process
        self.task = asyncio.create_task(self._read(process), name=f"viewer of {self.transcript.run_id}")

    async def _read(self, process: ShowingProcess) -> None:
        shown = self.transcript
        cursor = parse_mixed_cursor(shown.cursor, where="Last-Event-ID")
        resumed = shown.cursor != "0"
        async with process.mixed.attach(
            shown.run_id, cursor=cursor, names=self.names, resumed=resumed, client="c"
        ) as session:
            if isinstance(session, NothingLeft):
                self.over = True
                return
            self._write(session.prelude)
            await session.run(Outlet(self._write, lambda: 0, lambda: False, chunked=False))
            self.flow()

    def _write(self, data: bytes) -> None:
        self._unread += data
        if not self.held:
            self.flow()

    def flow(self) -> None:
        self.held = False
        self._arrive(len(self._unread))

    async def drop(self, *, arrived: float = 1.0) -> None:
        """The connection breaks; of what was on its way, this share still came."""
        self._arrive(int(len(self._unread) * arrived))
        self._unread, self.held = b"", False
        task, self.task = self.task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _arrive(self, count: int) -> None:
        arrived, self._unread = self._unread[:count], self._unread[count:]
        try:
            for block in self._body.feed(arrived):
                self.transcript.take(block)
        except (AssertionError, ValueError, KeyError) as defect:
            self._on_defect(f"{defect!r} in {arrived!r}")
        self.over = self.over or self.transcript.end is not None


class Follower:
    """A reader of one part, as a Durable Stream has it: by offsets, with a wait for what is not there yet."""

    def __init__(self, run_id: str, n: int) -> None:
        self.run_id = run_id
        self.n = n
        self.attempt = 1
        self.data = b""
        self.closed = False

    async def read(self, process: ShowingProcess) -> None:
        """Until there is nothing more to read now."""
        while True:
            part = await process.parts.part(self.run_id, self.n)
            if part.attempt != self.attempt:
                self.attempt, self.data = part.attempt, b""
            try:
                with PartTail(process.reads, process.parts, part, at=len(self.data)) as tail:
                    read = await tail.next(within_s=0)
            except PartReset:
                continue
            assert read.offset == len(self.data)
            self.data += read.data
            self.closed = read.closed and read.up_to_date
            if not read.data:
                return
