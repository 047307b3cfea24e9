"""The events of one run, exactly once and in order, through any number of reconnects."""

from __future__ import annotations

import asyncio
import base64
import random
from collections import deque
from dataclasses import dataclass
from typing import Final, Generic, Self, TypeVar

import aiohttp
import msgspec

from runwire import clock
from runwire.client.address import redirect_of
from runwire.client.calls import FAILED, Again, Call, Caller, decoded, patiently, refusal
from runwire.client.problems import UnexpectedAnswer
from runwire.client.results import RunView, StreamEnd
from runwire.client.sse import EventTooLong, ServerEvent, SseParser
from runwire.errors import RunwireError
from runwire.model.event import Event

T = TypeVar("T")

DEFAULT_RETRY_MS: Final = 1000
BACKOFF_MAX_S: Final = 30.0
STEADY_S: Final = 60.0
"""Age in seconds from which the end of a connection is no failure, because servers rotate their streams."""
IDLE_S: Final = 45.0
"""Seconds of silence after which a connection counts as dead: three of the server's heartbeats."""


class StreamBroken(RunwireError):
    """The connection ended, was silent or skipped an event. A stream reconnects by itself, and raises this only when
    that fails for longer than the stream's patience.
    """

    code = "stream_broken"


class FollowedStream(Generic[T]):
    """An async iterator over what a run's stream has. It ends after the terminal event; `end` then has the final state.

    `cursor` is the seq of the last event returned. `connections` counts the connections so far, `repeated` the events
    that came twice, and `skipped` the times when one was missing; it is asked for again. Both stay 0 with a service
    that is well. Closing the stream early (`async with`, or `aclose`) frees its connection at once.
    """

    def __init__(
        self,
        caller: Caller,
        view: Call,
        *,
        after: int,
        idle_s: float,
        patience_s: float | None,
        speed: str | None = None,
        parts: str | None = None,
    ) -> None:
        """`view` is the call that reads the run; the stream's path lies below it. `speed` is that of a replay, `parts`
        names the parts that are mixed in.
        """
        self.run_id = view.run_id
        self.cursor = after
        self.end: StreamEnd | None = None
        self.connections = 0
        self.repeated = 0
        self.skipped = 0
        self._query: dict[str, str | list[str]] = {} if speed is None else {"replay": "1", "speed": speed}
        self._headers: dict[str, str] = {}
        if parts is not None:
            self._query["parts"] = parts
        self._caller = caller
        self._view = view
        self._idle_s = idle_s
        self._patience_s = patience_s
        self._heard = after
        self._heard_id = str(after)
        self._events: deque[T] = deque()
        self._response: aiohttp.ClientResponse | None = None
        self._parser = SseParser()
        self._retry_ms = DEFAULT_RETRY_MS
        self._connected_at = clock.monotonic()
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Raises RunNotFound, CursorPastTail, CursorExpired and their like at once. The client's `retry_s` limits the
        first connection, the stream's patience every later one.
        """
        while not self._settled:
            await self._more_through_failures()
        if not self._events:
            await self.aclose()
            raise StopAsyncIteration
        event = self._events.popleft()
        if isinstance(event, Event):
            self.cursor = event.seq
        return event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Frees the connection and ends the iterator."""
        self._closed = True
        self._events.clear()
        self._drop()

    @property
    def _settled(self) -> bool:
        """Whether an event is ready, or no more will come."""
        return bool(self._events) or self.end is not None or self._closed

    async def _more_through_failures(self) -> None:
        await patiently(self._more, wait_s=self._pause_s, patience_s=self._patience)

    def _patience(self) -> float | None:
        return self._caller.retry_s if self.connections == 0 else self._patience_s

    def _pause_s(self, again: Again, failures: int) -> float:
        """The pause in seconds that the answer asked for, else the reconnection time, doubled with each failure in a
        row.
        """
        if again.wait_s is not None:
            return again.wait_s
        base_s = self._retry_ms / 1000
        longest_s = max(base_s, BACKOFF_MAX_S)
        jitter_s = random.uniform(0, base_s / 2)  # noqa: S311  # needs no secrecy
        return clock.longest_pause_s(failures, first_s=base_s, longest_s=longest_s) + jitter_s

    async def _more(self) -> None:
        """Returns with an event or the end, or with neither when a connection ends that had been good for long, which
        is no failure. Drops a broken connection and raises Again.
        """
        try:
            while not self._settled:
                chunk = await self._read()  # on its own line: it may put a new parser in place
                self._take(self._parser.feed(chunk))
        except Again:
            steady = self._response is not None and clock.monotonic() - self._connected_at >= STEADY_S
            self._drop()
            if self._settled:
                return
            if not steady:
                raise
            await asyncio.sleep(random.uniform(1, 1.5) * self._retry_ms / 1000)  # noqa: S311  # spreads load
        except EventTooLong as error:
            self._drop()
            raise UnexpectedAnswer(f"the answer is not an event stream: {error}") from error
        except BaseException:
            self._drop()
            raise

    async def _read(self) -> bytes:
        """Bytes of the stream, empty once the run's end is known. Raises Again when the connection ends."""
        try:
            response = self._response or await self._connect()
            if response is None:
                return b""
            async with asyncio.timeout(self._idle_s):
                chunk = await response.content.readany()
        except FAILED as error:
            raise Again(self._caller.unreachable(error)) from error
        if not chunk:
            raise Again(StreamBroken("the server ended the stream before the run's end"))
        return chunk

    async def _connect(self) -> aiohttp.ClientResponse | None:
        """A stream from the cursor on, or None when the run is closed and all its events were sent."""
        headers = {"Accept": "text/event-stream", **self._headers}
        last_event_id = self._last_event_id
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        async with asyncio.timeout(self._idle_s):
            response = await self._caller.session.get(
                f"{self._caller.base_url}{self._path}",
                params=self._query,
                headers={**self._caller.credentials(), **headers},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._idle_s),
                allow_redirects=False,
            )
        if response.status == 200 and response.content_type == "text/event-stream":
            self._response = response
            self._connected_at = clock.monotonic()
            self._parser = SseParser(last_event_id=self._heard_id)
            self.connections += 1
            return response
        async with response:
            body = await response.read()
        if response.status == 204:
            await self._finish()
            return None
        if elsewhere := redirect_of(response.status, response.headers.get("Location")):
            raise UnexpectedAnswer(elsewhere)
        if response.status < 400:
            raise UnexpectedAnswer(f"HTTP {response.status} with {response.content_type} is not an event stream")
        if response.status == 500:
            raise Again(StreamBroken("the server failed (HTTP 500)"))
        raise refusal(response, body, call=self._view)

    @property
    def _path(self) -> str:
        return f"{self._view.path}/stream"

    @property
    def _last_event_id(self) -> str | None:
        # A cursor says that it is a reconnect: alerts count those.
        return self._heard_id if self._heard or self.connections else None

    async def _finish(self) -> None:
        """Takes that the server has nothing left to send."""
        view = await self._caller.call(self._view, RunView)
        self.end = StreamEnd(view.run_id, view.state, view.last_seq)

    def _take(self, frames: list[ServerEvent]) -> None:
        if self._parser.retry_ms is not None:
            self._retry_ms = self._parser.retry_ms
        for frame in frames:
            if frame.event == "message":
                self._hear(decoded(frame.data, Event), frame.last_event_id)
            elif frame.event == "part":
                self._hear_part(frame)
            elif frame.event == "end":
                end = decoded(frame.data, StreamEnd)
                if end.last_seq > self._heard:
                    self._skipped(end.last_seq + 1)
                self.end = end
                return

    def _hear(self, event: Event, event_id: str) -> None:
        if event.run_id != self.run_id:
            raise UnexpectedAnswer(f"the stream of run {self.run_id!r} has an event of run {event.run_id!r}")
        if event.seq > self._heard + 1:
            self._skipped(event.seq)
        if event.seq <= self._heard:  # sent twice, given once
            self.repeated += 1
            return
        self._heard = event.seq
        self._heard_id = event_id
        self._keep(event)

    def _keep(self, event: Event) -> None:
        raise NotImplementedError

    def _hear_part(self, frame: ServerEvent) -> None:
        """A stream that did not ask for parts takes no frames of them."""

    def _skipped(self, seq: int) -> None:
        self.skipped += 1
        raise Again(StreamBroken(f"the stream went from event {self._heard} to {seq}"))

    def _drop(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()


class RunStream(FollowedStream[Event]):
    """An async iterator over a run's events. Another stream `after` its `cursor` continues there."""

    def _keep(self, event: Event) -> None:
        self._heard_id = str(event.seq)
        self._events.append(event)


@dataclass(frozen=True, slots=True)
class PartPiece:
    """Bytes of a part of the run, from `offset` of an attempt on. With `reset` the part was begun again: drop the bytes
    of earlier attempts.
    """

    part: int
    attempt: int
    offset: int
    data: bytes
    reset: bool = False


class MixedStream(FollowedStream[Event | PartPiece]):
    """An async iterator over a run's events with the bytes of its parts between them, each once and in order."""

    def _keep(self, event: Event) -> None:
        self._events.append(event)

    def _hear_part(self, frame: ServerEvent) -> None:
        piece = decoded(frame.data, _PartFrame)
        data = piece.text.encode() if piece.text is not None else base64.b64decode(piece.base64 or "")
        self._heard_id = frame.last_event_id
        self._events.append(PartPiece(piece.part, piece.attempt, piece.offset, data, piece.reset))


class _PartFrame(msgspec.Struct, frozen=True):
    part: int
    attempt: int
    offset: int
    text: str | None = None
    base64: str | None = None
    reset: bool = False
