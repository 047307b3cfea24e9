"""A run with parts, written by hand, and its clients: a test decides what happens, and of what anybody hears."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from runwire.bus.memory import MemoryBus
from runwire.content.part import Part
from runwire.content.part_feed import PartFeed
from runwire.content.part_metrics import PartMetrics
from runwire.content.part_writer import Written
from runwire.content.parts import Grown, PartReader, Reach, Read
from runwire.db import Database
from runwire.errors import DatabaseUnavailable
from runwire.stream import MixedCursor, MixedStreams, NothingLeft, parse_mixed_cursor
from runwire.stream.sse import chunk
from runwire.telemetry.exposition import Exposition
from stream.feed import Feed, Streaming, streaming
from stream.screen import Screen
from waiting import eventually


class CountingParts(PartReader):
    """The real reader, which also says how often PostgreSQL was asked."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.reads = 0
        self.batches = 0
        self.away = False
        """The database does not answer."""
        self.refused = 0
        self.first: Callable[[], Awaitable[object]] | None = None
        """Called before each look at the parts: on a slow way to PostgreSQL, much happens meanwhile."""

    async def _answer(self) -> None:
        if self.away:
            self.refused += 1
            raise DatabaseUnavailable("away")
        if self.first is not None:
            await self.first()

    async def of_run(self, run_id: str) -> list[Part]:
        await self._answer()
        return await super().of_run(run_id)

    async def read(self, run_id: str, n: int, *, offset: int, limit: int) -> Read:
        await self._answer()
        self.reads += 1
        return await super().read(run_id, n, offset=offset, limit=limit)

    async def beyond(self, reaches: Sequence[Reach], *, limit: int) -> dict[int, Grown]:
        await self._answer()
        self.batches += 1
        return await super().beyond(reaches, limit=limit)


class PartsFeed(Feed):
    """Stands in for the writer of a run's parts. `tell` says whether the process with streams hears of bytes."""

    def __init__(self, database: Database, bus: MemoryBus, feed: PartFeed, *, run_id: str = "run-1") -> None:
        super().__init__(database, bus, run_id=run_id)
        self.feed = feed
        self.written: dict[int, bytes] = {}
        self.attempts: dict[int, int] = {}
        self.told_late: list[Written] = []

    async def open(self, n: int = 1, *, media_type: str = "text/plain", publish: bool = True) -> None:
        """Opens a part, or the next attempt of one."""
        attempt = self.attempts[n] = self.attempts.get(n, 0) + 1
        self.written[n] = b""
        await self.database.execute(
            "DELETE FROM part_chunks WHERE part_id = (SELECT part_id FROM parts WHERE run_id = $1 AND n = $2)",
            self.run_id, n,
        )  # fmt: skip
        await self.database.execute(
            "INSERT INTO parts (run_id, n, attempt, name, media_type, opened_seq) VALUES ($1, $2, $3, $4, $5, $6)"
            " ON CONFLICT (run_id, n) DO UPDATE SET part_id = DEFAULT, attempt = excluded.attempt, state = 'open',"
            " size = 0, row_at = 0, tail = '', opened_seq = excluded.opened_seq, ended_seq = NULL, written_us = NULL",
            self.run_id, n, attempt, f"p{n}", media_type, len(self.events) + 1,
        )  # fmt: skip
        await self.append(fn=f"part:p{n}:{n}:opened")
        if publish:
            await self.publish()

    async def write(self, data: bytes, n: int = 1, *, tell: str = "bytes", ahead_s: int = 0) -> None:
        """`tell` is `bytes`, `hint`, `nothing`, or `late`: then `catch_up` tells of them, the last first. The clock of
        PostgreSQL is ahead by so much.
        """
        at = len(self.written[n])
        self.written[n] += data
        now_us = time.time_ns() // 1000 + ahead_s * 1_000_000
        await self.database.execute(
            "WITH moved AS (INSERT INTO part_chunks (part_id, at, bytes) SELECT part_id, row_at, tail FROM parts"
            " WHERE run_id = $1 AND n = $2 AND tail <> '')"
            " UPDATE parts SET size = size + octet_length($3::bytea), row_at = size, tail = $3, written_us = $4"
            " WHERE run_id = $1 AND n = $2",
            self.run_id, n, data, now_us,
        )  # fmt: skip
        written = Written(self.run_id, n, self.attempts[n], at, data, now_us)
        if tell == "bytes":
            self.feed.written([written])
        elif tell == "hint":
            self.feed.hint([self.run_id])
        elif tell == "late":
            self.told_late.append(written)

    def catch_up(self) -> None:
        """Tells of the bytes that were to be told of late, and once more of all of them."""
        for written in (*reversed(self.told_late), *self.told_late):
            self.feed.written([written])
        self.told_late.clear()

    async def end_part(self, n: int = 1, *, state: str = "sealed", publish: bool = True) -> None:
        await self.database.execute(
            "UPDATE parts SET state = $3::text::part_state, ended_seq = $4 WHERE run_id = $1 AND n = $2",
            self.run_id, n, state, len(self.events) + 1,
        )  # fmt: skip
        await self.append(fn=f"part:p{n}:{n}:{state}")
        if publish:
            await self.publish()


@dataclass
class MixedReplica:
    one: Streaming
    mixed: MixedStreams
    parts: CountingParts
    feed: PartFeed
    metrics: PartMetrics


@asynccontextmanager
async def mixed_replica(database: Database, bus: MemoryBus, **settings: object) -> AsyncIterator[MixedReplica]:
    """A process with streams."""
    parts, feed, metrics = CountingParts(database), PartFeed(), PartMetrics(Exposition())
    async with (
        streaming(database, bus, **settings) as one,  # type: ignore[arg-type]
        MixedStreams(one.streams, one.reader, parts, feed, metrics=metrics) as mixed,
    ):
        yield MixedReplica(one, mixed, parts, feed, metrics)


@dataclass
class MixedClient:
    """One client, as a native EventSource is one: it checks each frame against those before."""

    names: frozenset[str] | None = None
    last_id: str = "0"
    seqs: list[int] = field(default_factory=list)
    content: dict[int, bytes] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    ended: bool = False
    nothing_left: bool = False

    def take(self, screen: Screen, *, most: int | None = None) -> None:
        """Takes the blocks that came, at most so many."""
        for block in screen.blocks[:most]:
            self._take(block)

    def _take(self, block: dict[str, str]) -> None:
        if "id" in block:
            self.last_id = block["id"]
        if "data" not in block:
            return
        data = json.loads(block["data"])
        if block.get("event") == "end":
            self.ended = True
        elif block.get("event") == "part":
            self._take_part(data)
        else:
            assert data["seq"] == len(self.seqs) + 1, "an event is missing, or came twice"
            self.seqs.append(data["seq"])
            words = data.get("fn", "").split(":")
            if words[0] == "part" and words[3] == "opened":
                self.content.setdefault(int(words[2]), b"")

    def _take_part(self, data: dict[str, object]) -> None:
        n = data["part"]
        assert isinstance(n, int)
        assert n in self.content, "bytes before the part was opened"
        if data.get("reset"):
            self.content[n] = b""
            self.attempts[n] = data["attempt"]  # type: ignore[assignment]
            return
        assert self.attempts.setdefault(n, data["attempt"]) == data["attempt"], "two attempts as one"  # type: ignore[arg-type]
        assert data["offset"] == len(self.content[n]), "a gap or a repeat"
        text, encoded = data.get("text"), data.get("base64")
        self.content[n] += text.encode() if isinstance(text, str) else base64.b64decode(str(encoded))

    @property
    def cursor(self) -> MixedCursor:
        return parse_mixed_cursor(self.last_id, where="id")

    @asynccontextmanager
    async def connected(
        self, where: MixedReplica, *, run_id: str = "run-1", screen: Screen | None = None
    ) -> AsyncIterator[Screen]:
        """Streams inside the block, from the last id on. Take what came before the block ends."""
        screen = screen or Screen()
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def handler() -> None:
            try:
                async with where.mixed.attach(
                    run_id, cursor=self.cursor, names=self.names, resumed=False, client="c"
                ) as session:
                    entered.set_result(None)
                    if isinstance(session, NothingLeft):
                        self.nothing_left = True
                        return
                    screen.outlet.write(chunk(session.prelude) if screen.outlet.chunked else session.prelude)
                    screen.reason = await session.run(screen.outlet)
            except Exception as error:
                if entered.done():
                    raise
                entered.set_exception(error)

        task = asyncio.create_task(handler(), name="client of a mixed stream")
        try:
            await entered
            yield screen
        finally:
            task.cancel()
            failed = await asyncio.gather(task, return_exceptions=True)
        for error in failed:
            if error is not None and not isinstance(error, asyncio.CancelledError):
                raise error

    async def sees(self, screen: Screen, content: dict[int, bytes], *, events: int, within_s: float = 20.0) -> None:
        """Returns when the screen shows just this, with what the client had before."""

        def shown() -> bool:
            seen = MixedClient(self.names, self.last_id, list(self.seqs), dict(self.content), dict(self.attempts))
            seen.take(screen)
            assert (seen.content, len(seen.seqs)) == (content, events)
            return True

        await eventually(shown, within_s=within_s)
