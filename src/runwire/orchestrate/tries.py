"""Tries of a run's nodes: each within its time-out, and ended early when the run is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from functools import partial
from typing import Any, Final

import msgspec

from runwire.clock import monotonic
from runwire.content import Artifacts
from runwire.errors import RunwireError
from runwire.model.graph import Agent, Node, Signal
from runwire.orchestrate.beat import Beat, NodeAtWork
from runwire.orchestrate.claim import Claim
from runwire.orchestrate.node_parts import NodeParts
from runwire.orchestrate.node_try import Ended, NodeContext, Threads, Tried, exit_of, failure_of, judged, run_node
from runwire.orchestrate.run_log import RunLog
from runwire.telemetry.logs import LogEvent, get_logger

_log = get_logger()
STUBBORN_S: Final = 5.0
"""Seconds for which a node may go on after it was cancelled, before its run goes on without it."""


class NodeTries:
    """Tries the nodes of one run, one at a time. `cancel` interrupts the try under way.

    A node that does not stop within `STUBBORN_S` is left behind: its task goes on, and its result is not used.
    """

    def __init__(
        self,
        claim: Claim,
        agent: Agent[Any],
        log: RunLog,
        *,
        parts: NodeParts,
        beat: Beat,
        threads: Threads,
        artifacts: Artifacts | None,
        state_max_bytes: int,
    ) -> None:
        """`threads` runs nodes that are not `async`. A state of more than `state_max_bytes` of JSON fails its node."""
        self._claim = claim
        self._agent = agent
        self._state_type = agent.state_type
        self.signalled = claim.signal is not None
        """Whether the next try is of the node at which the run went on with a signal."""
        self._log = log
        self._parts = parts
        self._beat = beat
        self._threads = threads
        self._artifacts = artifacts
        self._state_max_bytes = state_max_bytes
        self._task: asyncio.Task[Ended] | None = None
        self._abandoned: asyncio.Future[None] | None = None
        self.cancelled = asyncio.Event()
        self.left = b""
        """The state as the last successful try left it, as JSON."""
        self.next_state: Any = None
        """The same, as it comes back from that JSON."""

    def cancel(self) -> None:
        """Interrupts the try under way. Later tries begin as before; the caller makes none."""
        self.cancelled.set()
        if self._task is not None and self._abandoned is not None:
            self._task.cancel()
            asyncio.get_running_loop().call_later(STUBBORN_S, _settle, self._abandoned)

    async def run(self, node: Node[Any], state: Any, attempt: int) -> Tried:
        """The result of one try. A success leaves its state in `left` and `next_state`."""
        signal = self._signal if self.signalled else _no_signal
        context = NodeContext(
            self._log, self._parts, self._claim.agent, attempt, artifacts=self._artifacts, signal=signal
        )
        loop = asyncio.get_running_loop()
        began: asyncio.Future[None] = loop.create_future()
        self._abandoned = abandoned = loop.create_future()
        at_work = NodeAtWork(self._claim.run_id, self._claim.agent, node.name, monotonic() + node.timeout_s)
        function = partial(run_node, node, context, state, self._threads, began)
        self._task = task = asyncio.create_task(self._beat.of(at_work, function))
        try:
            if node.in_thread:  # its time counts from when it has a thread
                await asyncio.wait((task, began, abandoned), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((task, abandoned), timeout=node.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await self._interrupt(task, node, began)
                return Tried(code="cancelled") if abandoned.done() else Tried(code="timeout", retry=True)
            if task.cancelled():  # before it began, or by itself at its very end
                return Tried(code="cancelled")
            if node.in_thread and self.cancelled.is_set():
                self._tell_abandoned(node)  # its thread cannot be interrupted
            tried = judged(partial(self._judge, node, task.result(), state))
            return tried if tried.code is not None else await _with_result(context, tried)
        except asyncio.CancelledError:  # of the walk itself: a node's own ends the node
            if not task.done():
                await self._interrupt(task, node, began)
            raise
        finally:
            self._task = self._abandoned = None
            context.end()

    def _signal(self) -> Signal | None:
        claim = self._claim
        if claim.signal is None:
            return None
        schema = self._agent.schema_of(claim.signal)
        if schema is not None:
            return Signal(claim.signal, schema.from_signal(claim.signal_data or b"null"), claim.signal_id)
        data = None if claim.signal_data is None else msgspec.json.decode(claim.signal_data)
        return Signal(claim.signal, data, claim.signal_id)

    def _judge(self, node: Node[Any], ended: Ended, state: Any) -> Tried:
        if ended.error is not None:
            return failure_of(ended.error)
        exit_ = exit_of(node, ended.value)
        self.left, self.next_state = self._state_type.save(state, at_most=self._state_max_bytes)
        return Tried(exit_)

    async def _interrupt(self, task: asyncio.Task[Ended], node: Node[Any], began: asyncio.Future[None]) -> None:
        """Cancels a node and waits for it for a limited time. A node that does not stop is left behind."""
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task}, timeout=STUBBORN_S)
        if not task.done() or (node.in_thread and began.done()):
            self._tell_abandoned(node)

    def _tell_abandoned(self, node: Node[Any]) -> None:
        _log.warning(LogEvent.NODE_FAILED, run_id=self._claim.run_id, node=node.name, code="abandoned")


def _no_signal() -> None:
    return None


async def _with_result(context: NodeContext, tried: Tried) -> Tried:
    """The try with its result ready to be stored; a failed one when that cannot be."""
    try:
        result = await context.prepared_result()
    except RunwireError as error:
        return failure_of(error)
    return tried if result is None else replace(tried, result=result)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
