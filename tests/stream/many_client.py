"""A client of a stream of many runs, as a native EventSource is one: it keeps the last id, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from runwire.bus.memory import MemoryBus
from runwire.db import Database
from runwire.stream import NothingLeft
from runwire.stream.many import ManyStreams, MergedSession, Selector
from runwire.stream.many.positions import RUNS_MAX
from stream.feed import Streaming, streaming
from stream.screen import Screen
from waiting import eventually


@dataclass
class Replica:
    """A process with streams of one run and of many."""

    one: Streaming
    many: ManyStreams


@asynccontextmanager
async def replica(database: Database, bus: MemoryBus, **settings: object) -> AsyncIterator[Replica]:
    """`runs_max` as the setting, `known_max` of ManyStreams; the others are of Streams."""
    runs_max, known_max = settings.pop("runs_max", 500), settings.pop("known_max", RUNS_MAX)
    async with (
        streaming(database, bus, **settings) as one,  # type: ignore[arg-type]
        ManyStreams(one.streams, database, runs_max=runs_max, keep_s=3600, known_max=known_max) as many,  # type: ignore[arg-type]
    ):
        yield Replica(one, many)


@dataclass
class ManyClient:
    """`seen` has what it was told of each run: seqs in order, then the state it ended in."""

    selector: Selector
    tenant: str | None = None
    last_id: str | None = None
    seen: dict[str, list[int | str]] = field(default_factory=dict)
    ids: list[tuple[str, dict[str, int]]] = field(default_factory=list)
    """Each id, and how many frames of each run had been told by then."""
    nothing_left: bool = False
    bytes: int = 0

    def take(self, screen: Screen, *, most: int | None = None) -> int:
        """Takes the blocks that came, at most so many, and keeps the id of the last."""
        blocks = screen.blocks[:most]
        for block in blocks:
            if "id" in block:
                self.last_id = block["id"]
            if "data" in block:
                data = json.loads(block["data"])
                told = self.seen.setdefault(data["runId"], [])
                told.append(data["state"] if block.get("event") == "end" else data["seq"])
                self.ids.append((block["id"], {run: len(of) for run, of in self.seen.items()}))
        return len(blocks)

    @asynccontextmanager
    async def connected(self, where: Replica, *, screen: Screen | None = None) -> AsyncIterator[Screen]:
        """Streams inside the block, from the last id on. Take what came before the block ends."""
        screen = screen or Screen()
        entered: asyncio.Future[MergedSession | NothingLeft] = asyncio.get_running_loop().create_future()

        async def handler() -> None:
            try:
                async with where.many.attach(
                    self.selector, last_event_id=self.last_id, tenant=self.tenant, client="c"
                ) as session:
                    entered.set_result(session)
                    if isinstance(session, NothingLeft):
                        self.nothing_left = True
                        return
                    screen.outlet.write(session.prelude)
                    screen.reason = await session.run(screen.outlet)
            except Exception as error:
                if entered.done():
                    raise
                entered.set_exception(error)

        task = asyncio.create_task(handler(), name="client of many runs")
        try:
            await entered
            yield screen
        finally:
            task.cancel()
            failed = await asyncio.gather(task, return_exceptions=True)
        for error in failed:
            if error is not None and not isinstance(error, asyncio.CancelledError):
                raise error

    async def follow(self, where: Replica, until: dict[str, list[int | str]]) -> None:
        """One connection, until all of it was told, or the stream ends."""
        before = {run: list(told) for run, told in self.seen.items()}
        async with self.connected(where) as screen:

            def told() -> bool:
                sofar: dict[str, list[int | str]] = {run: list(of) for run, of in before.items()}
                for block in screen.blocks:
                    if "data" in block:
                        data = json.loads(block["data"])
                        sofar.setdefault(data["runId"], []).append(
                            data["state"] if block.get("event") == "end" else data["seq"]
                        )
                assert sofar == until, (sofar, until)
                return True

            await eventually(told, within_s=10)
            self.take(screen)
            self.bytes += sum(map(len, screen.writes))
