"""Walks the graph of one claimed run, from where its log says it is to its terminal event."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from runwire.append import Change, EventLog
from runwire.clock import monotonic, pause_s, wait_until_set
from runwire.content import Artifacts, NewArtifact
from runwire.errors import ContentLost, IllegalAppend, StorageUnavailable
from runwire.model.event import (
    RUN_FINISHED,
    RUN_STARTED,
    NewEvent,
    debug_trace,
    error_trace,
    node_finished,
    node_started,
)
from runwire.model.graph import BACKOFF_MAX_S, END, Agent, Node, Sleep, Wait
from runwire.model.run import RunState
from runwire.orchestrate.beat import Beat
from runwire.orchestrate.claim import Claim
from runwire.orchestrate.node_parts import NodeParts, PartDesk
from runwire.orchestrate.node_try import Threads, Tried
from runwire.orchestrate.run_log import RunLog
from runwire.orchestrate.tries import NodeTries
from runwire.orchestrate.waiting import waiting_of
from runwire.orchestrate.walk_report import WalkReport
from runwire.orchestrate.walk_state import WalkState
from runwire.telemetry.metrics import Metrics
from runwire.telemetry.span import Span
from runwire.telemetry.spans import Spans


class Walk:
    """One worker's walk through one run. `cancel` reaches the node that is running; `drain` stops before the next."""

    def __init__(
        self,
        claim: Claim,
        agent: Agent[Any],
        log: EventLog,
        *,
        metrics: Metrics,
        spans: Spans,
        beat: Beat,
        hand_over: Callable[[Walk], Awaitable[bool]],
        threads: Threads,
        artifacts: Artifacts | None = None,
        state_max_bytes: int,
        desk: PartDesk | None = None,
    ) -> None:
        """`hand_over` releases the lease and returns whether it did. `threads` runs nodes that are not `async`.
        `desk` lets nodes write parts.
        """
        self.claim = claim
        self._hand_over = hand_over
        self._agent = agent
        self._log = RunLog(
            log,
            claim.run_id,
            fence=claim.fence,
            last_seq=claim.last_seq,
            cancel_requested=claim.cancel_requested,
            traceparent=claim.traceparent,
            spans=spans,
        )
        self._report = WalkReport(claim, metrics=metrics, spans=spans)
        self._parts = NodeParts(self._log, fence=claim.fence, desk=desk)
        self._tries = NodeTries(
            claim,
            agent,
            self._log,
            parts=self._parts,
            beat=beat,
            threads=threads,
            artifacts=artifacts,
            state_max_bytes=state_max_bytes,
        )
        self._state = WalkState(claim, agent)
        self._draining = False
        self.lost = False
        """Whether another worker has taken the run over."""
        self.timed = False
        """Whether the run has begun to wait until a time."""
        self._failed_with = ""

    def cancel(self) -> None:
        """Interrupts the running node, or the pause before its next try, because the run's cancellation was
        requested.
        """
        self._log.cancel_requested = True
        self._log.interrupted.set()
        self._tries.cancel()

    def lose(self) -> None:
        """Marks the run as lost to another worker, which reports this attempt. The caller then cancels this one."""
        self.lost = True

    def drain(self) -> None:
        """Stops at the next checkpoint, leaving the run as it is for another worker."""
        self._draining = True
        self._log.interrupted.set()

    async def run(self) -> RunState | None:
        """The state that the run reached: terminal, `waiting`, or None when it was left for another worker.

        Raises FenceStale when the run was taken over meanwhile, and AppendError when its log refuses an event.
        """
        with self._report.attempt_span() as span:
            try:
                reached = await self._to_an_end()
            except asyncio.CancelledError:
                if self.lost:
                    span.discard()
                else:
                    await self._let_go(span)
                raise
            except Exception:
                span.discard()  # its lease ends by itself: the next owner reports this attempt
                raise
            else:
                if reached is None:
                    await self._let_go(span)
                    return None
                span.set("runwire.outcome", reached.value)
                if reached is RunState.FAILED:
                    span.fail(self._failed_with)
                return reached
            finally:
                self._parts.drop()
                await self._log.aclose()

    async def _let_go(self, span: Span) -> None:
        """A worker that keeps its lease because the database is away leaves the report of this attempt to the next
        one.
        """
        await self._log.aclose()
        if await self._hand_over(self):
            span.set("runwire.outcome", "handed_over")
        else:
            span.discard()

    async def _to_an_end(self) -> RunState | None:
        """As `_walk`, and waits for a while when the log cannot take an event."""
        try:
            return await self._walk()
        except StorageUnavailable:
            if self._draining:
                return None
            if not self._log.cancel_requested:
                raise
            self._log.forget_held()
            return await self._cancelled_run()
        except IllegalAppend:  # the database holds a rule that this event breaks; the end of the run breaks none
            self._log.forget_held()
            refused = error_trace("storage_refused", "orchestrator")
            return await self._finish(RunState.FAILED, "storage_refused", refused)
        except ContentLost as lost:  # its node ended too long after its part: another worker would come to the same
            self._log.forget_held()
            return await self._finish(RunState.FAILED, lost.code, error_trace(lost.code, "orchestrator"))

    async def _walk(self) -> RunState | None:
        if self.claim.last_seq == 0:
            self._log.hold(RUN_STARTED, change=Change(RunState.STARTED), stored=self._report.started)
        elif self.claim.resumed:
            self._log.hold(debug_trace("orchestrator.resumed"), stored=self._report.resumed)
            await self._parts.abandon_left()
        state = None if self.claim.parked else self._state.restored()
        if state is None:
            code = "worker_lost" if self.claim.parked else "invalid_input"
            return await self._finish(RunState.FAILED, code, error_trace(code, "orchestrator"))
        name = self.claim.next_node or self._agent.start
        while True:
            if self._log.cancel_requested:
                return await self._cancelled_run()
            if name == END:
                return await self._finish(RunState.FINISHED, None)
            if self._draining:
                await self._log.flush()
                return await self._cancelled_run() if self._log.cancel_requested else None
            node = self._agent.nodes.get(name)
            if node is None:  # a deploy took the node away while the run was between two workers
                return await self._finish(RunState.FAILED, "unknown_node", error_trace("unknown_node", "orchestrator"))
            step = await self._visit(node, state)
            if isinstance(step, RunState):
                return step
            name, state = step
            self._tries.signalled = False

    async def _visit(self, node: Node[Any], state: Any) -> tuple[str, Any] | RunState:  # noqa: PLR0911  # each ends a run
        """One node with its retries: where to go next and with which state, or the state the run came to."""
        attempt = 0
        while True:
            attempt += 1
            await self._enter(node, attempt)
            if self._log.cancel_requested:
                return await self._cancelled_run()
            started = monotonic()
            with self._report.node_span(node, attempt) as span:
                tried = await self._tries.run(node, state, attempt)
                await self._parts.settled()
                if tried.code is not None and not self._log.cancel_requested:
                    span.fail(tried.code)
            if tried.exit_ is not None:
                told = partial(self._report.node_finished, node, attempt, monotonic() - started)
                return await self._leave(node, tried.exit_, told, result=tried.result)
            await self._end_parts(tried)
            if self._log.cancel_requested:
                self._report.node_cancelled(node, monotonic() - started)
                return await self._cancelled_run()
            code = tried.code or "exception"
            self._report.node_failed(node, attempt, monotonic() - started, code=code, facts=tried.facts)
            trace = error_trace(code, node.fn_name)
            state = self._state.restored()  # what a failed try left half done is not carried on
            if state is None:
                return await self._finish(RunState.FAILED, "invalid_input", trace)
            if tried.retry and attempt <= node.retries:
                await self._log.append(trace)
                await self._pause(node, attempt)
                if self._log.cancel_requested:
                    return await self._cancelled_run()
            elif node.on_error is not None:
                self._log.hold(trace, checkpoint=self._state.checkpoint(None, node.on_error, self._state.kept))
                return node.on_error, state
            else:
                return await self._finish(RunState.FAILED, code, trace)

    async def _end_parts(self, tried: Tried) -> None:
        """Abandons the parts of a try that failed. Raises StorageUnavailable for one that a drain took from a database
        that is away: that is not the node's failure, and the next worker tries it again.
        """
        if tried.outage and self._draining:
            raise StorageUnavailable(self.claim.run_id, "the database is away")
        await self._parts.abandon()

    async def _enter(self, node: Node[Any], attempt: int) -> None:
        first = attempt == 1
        await self._log.append(node_started(node.name) if first else debug_trace(f"retry:{attempt}:{node.fn_name}"))
        self._report.node_started(node, attempt)

    async def _leave(
        self,
        node: Node[Any],
        exit_: str | Wait | Sleep,
        told: Callable[[], None],
        *,
        result: NewArtifact | None,
    ) -> tuple[str, Any] | RunState:
        """NodeFinished, the checkpoint and the node's result in one transaction, with what follows: the wait that the
        node asks for, the start of the next node, or the end of the run.
        """
        sealing = self._parts.sealing().beside(result)
        events = (*sealing.events, node_finished(node.name))

        def stored() -> None:
            sealing.told()
            told()

        if isinstance(exit_, str):
            checkpoint = self._state.checkpoint(node.name, exit_, self._tries.left)
            self._log.hold(*events, checkpoint=checkpoint, companion=sealing.companion, stored=stored)
            return exit_, self._tries.next_state
        waiting, on_timeout = waiting_of(exit_)
        checkpoint = replace(self._state.checkpoint(node.name, exit_.then, self._tries.left), on_timeout=on_timeout)
        await self._log.append(*events, change=waiting, checkpoint=checkpoint, companion=sealing.companion)
        stored()
        self.timed = waiting.due is not None
        self._report.waiting(waiting)
        return RunState.WAITING

    async def _pause(self, node: Node[Any], attempt: int) -> None:
        await wait_until_set(
            self._tries.cancelled, within_s=pause_s(attempt, first_s=node.backoff_s, longest_s=BACKOFF_MAX_S)
        )

    async def _finish(self, state: RunState, code: str | None, *last_words: NewEvent) -> RunState:
        await self._log.append(*last_words, RUN_FINISHED, change=Change(state, error_code=code))
        self._failed_with = code or ""
        self._report.finished(state, code)
        return state

    async def _cancelled_run(self) -> RunState:
        return await self._finish(RunState.CANCELLED, None, debug_trace("cancelRequested"))
