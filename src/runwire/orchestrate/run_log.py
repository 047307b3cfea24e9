"""The log of one run as its owner writes it: every append knows the seq it follows, so a repeated one is found out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from runwire.append import Change, Checkpoint, EventLog
from runwire.errors import RunClosed, SeqConflict, StorageUnavailable
from runwire.model.event import NewEvent, Source, debug_trace
from runwire.telemetry.spans import NO_SPANS, Spans


class RunLog:
    """Appends for the holder of `fence`, one at a time. Traces go out as they come, ahead of what follows them.

    An append whose outcome is unknown, because the connection broke during its commit, is repeated: the log's seq
    says whether it had happened. While the database is away it waits; it raises FenceLost when the run is somebody
    else's, and whatever else the log refuses.
    """

    def __init__(
        self,
        log: EventLog,
        run_id: str,
        *,
        fence: int,
        last_seq: int,
        cancel_requested: bool = False,
        traceparent: str | None = None,
        spans: Spans = NO_SPANS,
    ) -> None:
        self.run_id = run_id
        self.last_seq = last_seq
        self.cancel_requested = cancel_requested
        self._log = log
        self._fence = fence
        self._traceparent = traceparent
        self._spans = spans
        self._traces: list[NewEvent] = []
        self._flush: asyncio.Task[None] | None = None

    def trace(self, fn: str) -> None:
        """Queues a DebugTrace, which is stored soon. Raises InvalidRequest for what is no identifier."""
        self._traces.append(debug_trace(fn))
        if self._flush is None or self._flush.done():
            self._raise_failed_flush()
            self._flush = asyncio.create_task(self._flush_traces(), name=f"traces {self.run_id}")

    async def append(
        self, *events: NewEvent, change: Change | None = None, checkpoint: Checkpoint | None = None
    ) -> None:
        """Stores the events, after all traces there are. Sets `cancel_requested` from what the log says."""
        if self._flush is not None:
            flush, self._flush = self._flush, None
            await flush
        traces, self._traces = self._traces, []
        await self._store([*traces, *events], change, checkpoint)

    async def aclose(self) -> None:
        """Drops traces that are not stored yet: their run is not this owner's any more."""
        self._traces.clear()
        if self._flush is not None:
            self._flush.cancel()
            await asyncio.gather(self._flush, return_exceptions=True)

    def _raise_failed_flush(self) -> None:
        if self._flush is not None and not self._flush.cancelled():
            error = self._flush.exception()
            if error is not None:
                raise error

    async def _flush_traces(self) -> None:
        while self._traces:
            traces, self._traces = self._traces, []
            await self._store(traces, None, None)

    async def _store(self, events: Sequence[NewEvent], change: Change | None, checkpoint: Checkpoint | None) -> None:
        with self._spans.create_events(self._traceparent, run_id=self.run_id, count=len(events)):
            await self._repeat_until_stored(events, change, checkpoint)

    async def _repeat_until_stored(
        self, events: Sequence[NewEvent], change: Change | None, checkpoint: Checkpoint | None
    ) -> None:
        goal = self.last_seq + len(events)
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(StorageUnavailable),
            wait=wait_random_exponential(multiplier=0.05, max=2),
            reraise=True,
        ):
            with attempt:
                try:
                    appended = await self._log.append(
                        self.run_id,
                        events,
                        fence=self._fence,
                        source=Source.WORKER,
                        if_seq=self.last_seq,
                        change=change,
                        checkpoint=checkpoint,
                    )
                    self.cancel_requested = self.cancel_requested or appended.cancel_requested
                except SeqConflict as error:
                    if attempt.retry_state.attempt_number == 1 or error.actual != goal:
                        raise
                except RunClosed as error:
                    if attempt.retry_state.attempt_number == 1 or error.last_seq != goal or change is None:
                        raise
        self.last_seq = goal
