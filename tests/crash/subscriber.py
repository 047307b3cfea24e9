"""A subscriber that trusts nothing: it checks every byte, goes away at random and comes back where it was."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from crash.wire import Block, Body, Head, sent

EVENT_KEYS = {"runId", "seq", "ts", "type", "v", "source"}
HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}


@dataclass(slots=True)
class Tally:
    """The sums of all subscribers' experiences."""

    connects: int = 0
    resumes: int = 0
    rereads: int = 0
    dropped: int = 0
    refused: int = 0
    cut: int = 0
    rounded_off: int = 0
    longest_wait_s: float = 0.0
    """From the end of a stream to the first bytes of the next, of the client that waited longest."""


@dataclass(frozen=True, slots=True)
class Moods:
    """How a subscriber behaves: chances from 0 to 1, and the longest pause between connections."""

    drop: float = 0.5
    reread: float = 0.1
    http_1_0: float = 0.2
    pause_s: float = 0.4
    obedient: bool = False
    """It waits as long as `retry:` says, as an EventSource does, and where it is refused it knocks next door."""


class Credentials(Protocol):
    """The credentials that a subscriber sends to a service with authentication."""

    async def shown(self) -> tuple[str, str]:
        """Header lines, each with its CRLF, and a parameter of the query; either may be empty.

        Raises OSError or EOFError where there is nothing to show at the moment.
        """
        ...

    @property
    def expired(self) -> bool:
        """Whether what was shown last may be refused by now."""
        ...


@dataclass(slots=True)
class Subscriber:
    """`run` returns when the run's log is complete here, and raises AssertionError at the first defect."""

    run_id: str
    ports: Sequence[int]
    rng: random.Random
    tally: Tally
    moods: Moods = Moods()
    credentials: Credentials | None = None
    may_end: frozenset[str] = frozenset({"finished"})
    """The states in which the run may end."""
    events: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None
    _cursor: int = 0
    _left: int | None = None
    _retry_ms: int | None = None
    _gone_at: float | None = None

    @property
    def has_all(self) -> bool:
        return bool(self.events) and self.events[-1]["type"] == "RunFinished"

    async def run(self) -> None:
        while self.end is None:
            let_in = await self._visit()
            if self.end is None and self.moods.obedient:
                await asyncio.sleep((self._retry_ms or 0) / 1000 if let_in else 0.05)
            elif self.end is None:
                # A refused client waits longer: hundreds that retry at once would leave the service no time to recover.
                longest_s = self.moods.pause_s * (1 if let_in else 4)
                await asyncio.sleep(self.rng.uniform(0, longest_s))
                self._maybe_reread()

    async def ask_again(self) -> None:
        """Reconnects with everything in hand, as a native EventSource would after the end: 204 and nothing else."""
        while True:
            try:
                async with sent(self.rng.choice(self.ports), self._request()) as (head, _):
                    assert head.status == 204, f"{self.run_id}: {head.status} at the end of a closed run"
                    return
            except (OSError, EOFError):
                await asyncio.sleep(0.2)

    # ------------------------------------------------------------------ one connection

    async def _visit(self) -> bool:
        """Whether somebody answered."""
        dropping = self.rng.random() < self.moods.drop
        self._left = self.rng.randint(0, 8) if dropping else None
        self.tally.connects += 1
        self.tally.resumes += self._cursor > 0
        connected = False
        try:
            async with asyncio.timeout(self.rng.uniform(0.05, 3.0) if dropping else None):
                header, parameter = ("", "") if self.credentials is None else await self.credentials.shown()
                async with sent(self.rng.choice(self.ports), self._request(header, parameter)) as (head, reader):
                    connected = True
                    await self._read(head, reader)
        except TimeoutError:  # also an OSError: it comes first
            self.tally.dropped += 1
        except (OSError, EOFError):
            if connected:
                self.tally.cut += 1
            else:
                self.tally.refused += 1
        if connected and self._gone_at is None:
            self._gone_at = time.monotonic()
        return connected

    def _request(self, header: str = "", parameter: str = "") -> str:
        cursor, how = self._cursor, self.rng.random()
        parameters = [parameter] if parameter else []
        if how < 0.5:
            header += f"Last-Event-ID: {cursor}\r\n"
        elif how < 0.8:
            parameters.append(f"fromSeq={cursor}")
        elif cursor > 0:  # as a native EventSource, which repeats the URL it began with: the header wins
            parameters.append(f"fromSeq={self.rng.randrange(cursor)}")
            header += f"Last-Event-ID: {cursor}\r\n"
        query = f"?{'&'.join(parameters)}" if parameters else ""
        version = "1.0" if self.rng.random() < self.moods.http_1_0 else "1.1"
        return (
            f"GET /api/agents/runs/{self.run_id}/stream{query} HTTP/{version}\r\nHost: localhost\r\n"
            f"Accept: text/event-stream\r\n{header}\r\n"
        )

    async def _read(self, head: Head, reader: asyncio.StreamReader) -> None:
        if head.status == 204:
            assert self.has_all, f"{self.run_id}: 204 at {self._cursor} of an open run"
            assert self._cursor == len(self.events), f"{self.run_id}: 204 at {self._cursor} of {len(self.events)}"
            self.end = {}
            return
        if head.status == 503 or (head.status == 401 and self.credentials is not None and self.credentials.expired):
            raise ConnectionError
        assert head.status == 200, f"{self.run_id}: {head.status} at {self._cursor}"
        assert HEADERS.items() <= head.headers.items(), head.headers
        body, blocks = Body(head.chunked), 0
        while data := await reader.read(65_536):
            for block in body.feed(data):
                assert self.end is None, f"{self.run_id}: {block} after the end"
                if self._left is not None and self._left < 0:
                    self.tally.dropped += 1
                    return
                self._take(block, number=blocks)
                blocks += 1
        if body.torn or (body.chunked and not body.complete):
            assert self.end is None, f"{self.run_id}: cut off after the end"
            raise EOFError
        self.tally.rounded_off += 1

    # ------------------------------------------------------------------ what may come

    def _take(self, block: Block, *, number: int) -> None:
        fields = block.fields
        if number == 0:
            assert set(fields) == {"retry"}, f"{self.run_id}: begins with {block}"
            if self._gone_at is not None:
                self.tally.longest_wait_s = max(self.tally.longest_wait_s, time.monotonic() - self._gone_at)
                self._gone_at = None
        elif number == 1:
            assert fields == {"id": str(self._cursor)}, f"{self.run_id}: {block} is not the cursor {self._cursor}"
        elif set(fields) == {"id", "data"}:
            self._take_event(int(fields["id"]), json.loads(fields["data"]))
        elif fields.get("event") == "end":
            assert set(fields) == {"event", "data"}, f"{self.run_id}: {block}"
            self._take_end(json.loads(fields["data"]))
        else:
            assert set(fields) <= {"retry"}, f"{self.run_id}: {block}"
            assert fields or block.comments, f"{self.run_id}: an empty block"
        if "retry" in fields:
            self._retry_ms = int(fields["retry"])

    def _take_event(self, seq: int, event: dict[str, Any]) -> None:
        assert seq == self._cursor + 1, f"{self.run_id}: {seq} after {self._cursor}"
        assert event["seq"] == seq, event
        assert event["runId"] == self.run_id, event
        assert (event["v"], event["source"]) == (1, "outbox"), event
        labels = {"NodeStarted": {"name"}, "NodeFinished": {"name"}, "DebugTrace": {"fn"}}.get(event["type"], set())
        assert set(event) == EVENT_KEYS | labels, event
        if seq <= len(self.events):
            assert event == self.events[seq - 1], f"{self.run_id}: {event} was {self.events[seq - 1]}"
        else:
            assert not self.has_all, f"{self.run_id}: {event} after the terminal event"
            self.events.append(event)
        self._cursor = seq
        if self._left is not None:
            self._left -= 1

    def _take_end(self, end: dict[str, Any]) -> None:
        assert self.has_all, f"{self.run_id}: {end} at {self._cursor}"
        assert end.keys() == {"runId", "state", "lastSeq"}, end
        assert (end["runId"], end["lastSeq"]) == (self.run_id, self._cursor), end
        assert end["state"] in self.may_end, end
        self.end = end

    def _maybe_reread(self) -> None:
        """Forgets some of what it has, as a tab that was reloaded: it must come again, and be the same."""
        if self._cursor and self.rng.random() < self.moods.reread:
            self._cursor = self.rng.randrange(self._cursor)
            self.tally.rereads += 1
