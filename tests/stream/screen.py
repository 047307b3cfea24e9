"""A client's side of a stream: a connection that keeps what was written to it, and reads it as a browser would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from runwire.stream import Cursor, NothingLeft, Outlet, Streams
from runwire.stream.fanout.outlet import Socket
from runwire.telemetry.metrics import DisconnectReason


class Screen:
    """`stuck` bytes are what the connection says it still holds; set them to play a client that does not read."""

    def __init__(self, *, chunked: bool = False) -> None:
        self.writes: list[bytes] = []
        self.stuck = 0
        self.gone = False
        self.outlet = Outlet(self.writes.append, lambda: self.stuck, lambda: self.gone, chunked)
        self.reason: DisconnectReason | None = None

    @property
    def text(self) -> str:
        body = b"".join(self.writes)
        return (_unchunked(body) if self.outlet.chunked else body).decode()

    @property
    def blocks(self) -> list[dict[str, str]]:
        """Each block's fields by name; a comment's name is empty. A field appears once in each of our blocks."""
        assert self.text == "" or self.text.endswith("\n\n")
        return [
            {name: value for name, _, value in (line.partition(": ") for line in block.split("\n"))}
            for block in self.text.split("\n\n")[:-1]
        ]

    @property
    def seqs(self) -> list[int]:
        """The ids of the events, each of which is the seq inside its data."""
        events = [block for block in self.blocks if "data" in block and "event" not in block]
        assert [int(event["id"]) for event in events] == [json.loads(event["data"])["seq"] for event in events]
        return [int(event["id"]) for event in events]

    @property
    def end(self) -> dict[str, Any] | None:
        """The data of the `end` event, when it is the last block."""
        last = self.blocks[-1] if self.writes else {}
        return json.loads(last["data"]) if last.get("event") == "end" and "id" not in last else None

    @property
    def retry_ms(self) -> int | None:
        """The `retry:` the stream ended with."""
        last = self.blocks[-1] if self.writes else {}
        return int(last["retry"]) if "retry" in last else None


class Connected(Screen):
    """A screen behind a real socket, small, and a transport that writes a byte at once and the rest when it has time.

    It reads everything whenever somebody looks, unless it is `stuck`. `full`: the socket takes nothing before it is
    read from, as after a pause of the client's.
    """

    def __init__(self, *, full: bool = False) -> None:
        super().__init__(chunked=True)
        self._chaff = 0
        self.asked_to_write = 0
        self.near, self.far = socket.socketpair()
        self.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        for end in (self.near, self.far):
            end.setblocking(False)
        self.held = b""
        if full:
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._chaff += self.near.send(b"?")
        known = None if Socket is None else Socket(self.near.fileno())
        self.outlet = Outlet(self._write, self._buffered, lambda: self.gone, socket=known)

    def close(self) -> None:
        self.outlet.let_go()
        self.near.close()
        self.far.close()

    @property
    def text(self) -> str:
        while not self.stuck and (self.receive() or self.send(len(self.held))):
            pass
        return super().text

    def _write(self, data: bytes) -> None:
        self.asked_to_write += 1
        self.held += data
        self.send(1)

    def _buffered(self) -> int:
        return max(self.stuck, len(self.held))

    def send(self, most: int) -> bool:
        """Has the transport write what the socket takes; whether it took something."""
        try:
            sent = self.near.send(self.held[:most])
        except BlockingIOError:
            return False
        self.held = self.held[sent:]
        return sent > 0

    def receive(self) -> bool:
        """Reads what has arrived; whether something had."""
        try:
            got = self.far.recv(65536)
        except BlockingIOError:
            return False
        chaff = min(self._chaff, len(got))
        self._chaff -= chaff
        self.writes.append(got[chaff:])
        return True


def chunks_of(body: bytes) -> list[bytes]:
    """The chunks that are there as a whole; the framing of the rest has to be right, too, as far as it is there."""
    chunks = []
    while body:
        size, end_of_line, rest = body.partition(b"\r\n")
        if not end_of_line:
            break
        length = int(size, 16)
        assert b"\r\n".startswith(rest[length : length + 2])
        if len(rest) < length + 2:
            break
        chunks.append(rest[:length])
        body = rest[length + 2 :]
    return chunks


def _unchunked(body: bytes) -> bytes:
    return b"".join(chunks_of(body))


@asynccontextmanager
async def watching(
    streams: Streams, run_id: str, *, after: int = 0, screen: Screen | None = None
) -> AsyncIterator[Screen]:
    """A client that streams inside the block; it leaves at its end, when the stream has not ended before."""
    screen = screen or Screen()

    async def handler() -> None:
        async with streams.attach(run_id, cursor=Cursor(after)) as session:
            assert not isinstance(session, NothingLeft)
            screen.reason = await session.run(screen.outlet)

    task = asyncio.create_task(handler(), name=f"client of {run_id} at {after}")
    try:
        yield screen
    finally:
        task.cancel()
        failed = await asyncio.gather(task, return_exceptions=True)
    for error in failed:
        if error is not None and not isinstance(error, asyncio.CancelledError):
            raise error
