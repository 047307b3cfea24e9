"""The log of one run as its owner writes it. Every append names the seq it follows, so a repeat is detected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from runwire.append import Appended, Change, Checkpoint, Companion, EventLog
from runwire.clock import monotonic, pause_s, wait_until_set
from runwire.db import Patience
from runwire.errors import IllegalAppend, NodeFailed, PartitionMissing, RunClosed, SeqConflict, StorageUnavailable
from runwire.model.event import NewEvent, Source, debug_trace
from runwire.telemetry.spans import NO_SPANS, Spans

TRACE_LINGER_S: Final = 0.001
"""Seconds that a trace waits for the end of its node, so that one commit stores both."""
_PAUSE_FIRST_S: Final = 0.05
_PAUSE_MAX_S: Final = 2.0
_DAYLESS_MAX: Final = 8
"""Times that an append may find the run's day impossible to create, before the worker releases the run."""
PATIENCE_S: Final = 60.0
"""Seconds for which one append is repeated. The lease ends earlier, unless only this append cannot be stored."""
_ANSWERED_MAX: Final = 2
"""Times that the log must answer in between, as proof that only this append cannot be stored."""
TRACES_MAX: Final = 10_000
"""Most traces that may wait for their commit."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Everything that one append stores."""

    events: Sequence[NewEvent]
    change: Change | None = None
    checkpoint: Checkpoint | None = None
    companion: Companion | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    batch: _Batch
    stored: Callable[[], None]


class RunLog:
    """Appends for the holder of `fence`, one at a time. Traces go out as they come, ahead of what follows them.

    The walk and its node may append at the same time; each append waits for the one before.

    Events that are held go with the next append, in its transaction and ahead of its events: one commit stores the end
    of a node, its checkpoint and the start of the next node.

    An append whose outcome is unknown, because the connection broke during its commit, is repeated: the log's seq says
    whether it was stored. While the database is away, the append waits. After `PATIENCE_S`, or once `interrupted` is
    set, it raises StorageUnavailable, and another worker gets the run when its lease ends. If the log accepts other
    appends by then, it raises IllegalAppend instead. It raises FenceStale when another owner has the run, and the log's
    other refusals.
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
        patience_s: float = PATIENCE_S,
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
        self._flush_due: asyncio.TimerHandle | None = None
        self._one_at_a_time = asyncio.Lock()
        self._from_nodes: set[asyncio.Task[int]] = set()
        self._held: _Held | None = None
        self._patience_s = patience_s
        self._uncertain_seq: int | None = None
        self.interrupted = asyncio.Event()
        """Set to stop the run: an append that cannot be stored is then no longer repeated."""
        self.patience = Patience(patience_s, ended=self.interrupted)
        """The patience with the database of everything else that the run needs of it."""

    def trace(self, fn: str) -> None:
        """Queues a DebugTrace, which is stored soon. Raises InvalidRequest when `fn` is not an identifier, and
        NodeFailed (`too_many_traces`) when more come than can be stored.
        """
        event = debug_trace(fn)
        if len(self._traces) >= TRACES_MAX:
            raise NodeFailed("too_many_traces", retry=False)
        self._traces.append(event)
        if self._flush_due is None and (self._flush is None or self._flush.done()):
            self._raise_failed_flush()
            self._flush_due = asyncio.get_running_loop().call_later(TRACE_LINGER_S, self._begin_flush)

    async def append(
        self,
        *events: NewEvent,
        change: Change | None = None,
        checkpoint: Checkpoint | None = None,
        companion: Companion | None = None,
    ) -> None:
        """Stores the events, after all traces there are and after what is held, in one transaction.

        Sets `cancel_requested` from what the log says. Two changes of the run's state are two transactions, and so are
        two companions.
        """
        if self._flush_due is not None:
            self._flush_due.cancel()
            self._flush_due = None
        elif self._flush is not None:
            flush, self._flush = self._flush, None
            await flush
        held, self._held = self._held, None
        traces, self._traces = self._traces, []
        if held is None:
            await self._store(_Batch([*traces, *events], change, checkpoint, companion))
            return
        first = held.batch
        if (first.change and change) or (first.checkpoint and checkpoint) or (first.companion and companion):
            await self._store(replace(first, events=[*traces, *first.events]))
            held.stored()
            await self._store(_Batch(events, change, checkpoint, companion))
            return
        if first.checkpoint is not None:
            checkpoint = replace(first.checkpoint, followed_by=len(events))
        await self._store(
            _Batch([*traces, *first.events, *events], first.change or change, checkpoint, first.companion or companion)
        )
        held.stored()

    async def append_from_node(self, *events: NewEvent, companion: Companion) -> int:
        """As `append`, for a node at work; the log's last seq then. The append goes on when the node is cancelled
        meanwhile, so that the log knows its outcome.
        """

        async def stored() -> int:
            await self.append(*events, companion=companion)
            return self.last_seq

        task = asyncio.create_task(stored(), name=f"append {self.run_id}")
        self._from_nodes.add(task)
        task.add_done_callback(self._forget_from_node)
        return await asyncio.shield(task)

    def hold(
        self,
        *events: NewEvent,
        change: Change | None = None,
        checkpoint: Checkpoint | None = None,
        companion: Companion | None = None,
        stored: Callable[[], None] = lambda: None,
    ) -> None:
        """Holds the events for the next append. `stored` is called after that commit."""
        if self._held is not None:
            raise AssertionError("events are held already")
        self._held = _Held(_Batch(events, change, checkpoint, companion), stored)

    async def flush(self) -> None:
        """Stores the held events, if any."""
        if self._held is not None:
            await self.append()

    def forget_held(self) -> None:
        """Drops the held events and the traces that are not stored yet."""
        self._held = None
        self._traces.clear()

    async def aclose(self) -> None:
        """Drops traces that are not stored yet, because another owner has the run."""
        self._traces.clear()
        if self._flush_due is not None:
            self._flush_due.cancel()
        tasks = [*self._from_nodes, *([] if self._flush is None else [self._flush])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)

    def _forget_from_node(self, task: asyncio.Task[int]) -> None:
        self._from_nodes.discard(task)
        if not task.cancelled():
            task.exception()  # a node that was cancelled does not ask

    def _raise_failed_flush(self) -> None:
        if self._flush is not None and not self._flush.cancelled():
            error = self._flush.exception()
            if error is not None:
                raise error

    def _begin_flush(self) -> None:
        self._flush_due = None
        self._flush = asyncio.create_task(self._flush_traces(), name=f"traces {self.run_id}")

    async def _flush_traces(self) -> None:
        while self._traces:
            traces, self._traces = self._traces, []
            await self._store(_Batch(traces))

    async def _store(self, batch: _Batch) -> None:
        async with self._one_at_a_time:
            with self._spans.create_events(self._traceparent, run_id=self.run_id, count=len(batch.events)):
                await self._repeat_until_stored(batch)

    async def _repeat_until_stored(self, batch: _Batch) -> None:
        try:
            appended = await self._try_to_store(batch)
        except StorageUnavailable:
            await self._repeat(batch)
        except SeqConflict as error:
            if error.actual != self._uncertain_seq:
                raise
            # An append that seemed to fail had been stored after all.
            self.last_seq = error.actual
            self._uncertain_seq = None
            await self._repeat_until_stored(batch)
            return
        else:
            self.cancel_requested = self.cancel_requested or appended.cancel_requested
        self.last_seq += len(batch.events)

    async def _repeat(self, batch: _Batch) -> None:
        """Tries again, with pauses in between, until the events are stored, by this try or by one before it."""
        goal = self.last_seq + len(batch.events)
        failures = 1
        dayless = 0
        answered = 0
        until = monotonic() + self._patience_s
        while True:
            await wait_until_set(
                self.interrupted, within_s=pause_s(failures, first_s=_PAUSE_FIRST_S, longest_s=_PAUSE_MAX_S)
            )
            try:
                appended = await self._try_to_store(batch)
            except StorageUnavailable as error:
                failures += 1
                dayless += isinstance(error, PartitionMissing)
                late = monotonic() >= until
                if self.interrupted.is_set() or dayless >= _DAYLESS_MAX or (late and not await self._answers()):
                    self._uncertain_seq = goal
                    raise
                answered += late
                if answered == _ANSWERED_MAX:
                    self._uncertain_seq = goal
                    raise IllegalAppend(self.run_id, "the log refuses this append, and accepts others") from error
            except SeqConflict as error:
                if error.actual != goal:
                    raise
                return
            except RunClosed as error:
                if error.last_seq != goal or batch.change is None:
                    raise
                return
            else:
                self.cancel_requested = self.cancel_requested or appended.cancel_requested
                return

    async def _answers(self) -> bool:
        """Whether the log still answers: it can store a heartbeat of this run."""
        try:
            appended = await self._log.append(self.run_id, [], fence=self._fence, source=Source.WORKER)
        except StorageUnavailable:
            return False
        self.cancel_requested = self.cancel_requested or appended.cancel_requested
        return True

    async def _try_to_store(self, batch: _Batch) -> Appended:
        return await self._log.append(
            self.run_id,
            batch.events,
            fence=self._fence,
            source=Source.WORKER,
            if_seq=self.last_seq,
            change=batch.change,
            checkpoint=batch.checkpoint,
            companion=batch.companion,
        )
