"""Streams that end and come back while threads write to them: who reads gets 1, 2, 3, ... in whole chunks, always."""

from __future__ import annotations

import asyncio
import random

import pytest

from runwire.bus.memory import MemoryBus
from runwire.clock import monotonic
from runwire.db import Database
from runwire.stream import Cursor, NothingLeft, Session, Streams
from runwire.telemetry.metrics import DisconnectReason
from stream.feed import Feed, held, streaming
from stream.screen import Connected, chunks_of
from waiting import eventually

pytest.importorskip("runwire.stream.fanout._sockets", reason="runwire was installed without a C compiler")

END_OF_BODY = b"0\r\n\r\n"


class Viewer:
    """A client that comes back whenever its stream has ended or its connection is lost, with what it has read."""

    def __init__(self, streams: Streams, chance: random.Random) -> None:
        self.cursor = 0
        self.screen = Connected()
        self.session: Session | None = None
        self._streams = streams
        self._chance = chance
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            self.screen.close()
            self.screen = Connected(full=self._chance.random() < 0.3)
            async with self._streams.attach("run-1", cursor=Cursor(self.cursor)) as session:
                assert not isinstance(session, NothingLeft)
                self.session, watch = session, self._streams.watch_of("run-1")
                try:
                    await session.run(self.screen.outlet)
                finally:
                    self.session = None
                    self.screen.outlet.let_go()
            self.screen.outlet.write(END_OF_BODY)  # as the server does, with the transport
            assert watch is not None
            await watch.settled()  # what the threads may still send arrives, too
            self.cursor = self.read(ended=True)

    def read(self, *, ended: bool = False) -> int:
        """Reads all there is, and gives the last seq; `ended`: up to the end of the body, and nothing is behind it."""
        self.screen.stuck = 0
        while self.screen.receive() or self.screen.send(len(self.screen.held)):
            pass
        body = b"".join(self.screen.writes)
        assert body.endswith(END_OF_BODY) or not ended
        lines = b"".join(chunks_of(body.removesuffix(END_OF_BODY))).split(b"\n")
        seqs = [int(line[4:]) for line in lines if line.startswith(b"id: ")]
        assert seqs == list(range(self.cursor + 1, self.cursor + 1 + len(seqs)))
        return self.cursor + len(seqs)

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.screen.close()

    def check(self) -> None:
        if self._task.done():
            self._task.result()


@pytest.mark.parametrize("seed", range(12))
async def test_streams_end_and_begin_under_load_and_every_byte_is_in_its_place(
    db: Database, bus: MemoryBus, seed: int
) -> None:
    chance = random.Random(seed)
    feed = await Feed(db, bus).start()
    sender = held()
    async with streaming(
        db,
        bus,
        sender=sender,
        slots_a_tick=chance.choice([1, 2, 128]),
        slice_bytes=chance.choice([300, 5000, 65536]),
        sse_ring_events=chance.choice([5, 50, 1000]),
    ) as at:
        streams = at.streams
        viewers = [Viewer(streams, chance) for _ in range(chance.choice([1, 2, 5]))]
        now = monotonic()
        for _ in range(120):
            viewer = chance.choice(viewers)
            match chance.choices(
                ["add", "hear", "end", "tend", "receive", "send", "stick"], weights=[35, 20, 10, 7, 12, 12, 4]
            )[0]:
                case "add":
                    await feed.add(chance.choice([1, 1, 2, 20]))
                case "hear" if sender.under_way:
                    chance.choice([sender.finish, sender.look])()
                    sender.on_room()
                case "end" if viewer.session is not None:
                    viewer.session.ask_to_end(chance.choice([DisconnectReason.ROTATE, DisconnectReason.DRAIN]))
                case "tend":
                    now += chance.choice([1, 20])
                    await streams.tend(now)
                case "receive":
                    viewer.screen.receive()
                case "send":
                    viewer.screen.send(chance.choice([1, 1000, 100_000]))
                case "stick":
                    viewer.screen.stuck = chance.choice([0, 10**6])
            for _ in range(chance.choice([0, 1, 1, 3])):
                await asyncio.sleep(0)
            for each in viewers:
                each.check()

        def all_there() -> bool:
            while sender.under_way:
                sender.finish()
            sender.on_room()
            for each in viewers:
                each.check()
            return all(viewer.read() == len(feed.events) for viewer in viewers)

        await eventually(all_there)
        for viewer in viewers:
            await viewer.leave()
