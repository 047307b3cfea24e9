"""Walks an agent's graph as a run would: checkpoints as JSON, retries, recovery. For the agents' own tests."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from runwire.errors import NodeFailed
from runwire.model.content import OCTETS, Artifact
from runwire.model.event import (
    RUN_FINISHED,
    RUN_STARTED,
    EventType,
    NewEvent,
    debug_trace,
    error_trace,
    node_finished,
    node_started,
)
from runwire.model.graph import END, Agent, Data, Node, PartInProgress, Signal

S = TypeVar("S")


@dataclass
class Recorder:
    """A Context that keeps the events of the run."""

    agent: str
    run_id: str = "walk"
    attempt: int = 1
    signal: Signal | None = None
    events: list[NewEvent] = field(default_factory=list)

    def trace(self, fn: str) -> None:
        self.events.append(debug_trace(fn))

    async def artifact(self, name: str, data: Data, *, media_type: str = OCTETS) -> Artifact:
        raise NotImplementedError

    async def result(self, value: Any) -> None:
        raise NotImplementedError

    def part(self, name: str, *, media_type: str = "text/plain") -> AbstractAsyncContextManager[PartInProgress]:
        raise NotImplementedError(f"{name}, {media_type}: these agents write no parts")


@dataclass
class Walked:
    """The result of a walk: its events, its last checkpoint, and its failure, if any."""

    events: list[NewEvent]
    state: dict[str, Any]
    failed: str | None = None

    @property
    def nodes(self) -> list[str]:
        return [event.name or "" for event in self.events if event.type is EventType.NODE_STARTED]

    @property
    def traces(self) -> list[str]:
        return [event.fn or "" for event in self.events if event.fn is not None]


async def walk(
    agent: Agent[S],
    given: Mapping[str, Any],
    *,
    crash_in: str | None = None,
    repeat_in_place: bool = False,
) -> Walked:
    """Runs `agent` on `given` to its end.

    `crash_in` names a node that runs once more each time it is entered: from its last checkpoint, as after a crash,
    or with `repeat_in_place` on the state it has just left.
    """
    ctx = Recorder(agent.name, events=[RUN_STARTED])
    checkpoint = msgspec.json.encode(msgspec.convert(given, agent.state))
    at = agent.start
    while at != END:
        node = agent.nodes[at]
        ctx.events.append(node_started(at))
        try:
            state, target = await _tried(node, ctx, checkpoint, agent.state)
            if crash_in == at:
                again = msgspec.json.encode(state) if repeat_in_place else checkpoint
                state, target = await _tried(node, ctx, again, agent.state)
        except NodeFailed as failure:
            if node.on_error is None:
                ctx.events.append(RUN_FINISHED)
                return Walked(ctx.events, msgspec.json.decode(checkpoint), failure.code)
            at = node.on_error
            continue
        assert target in node.to
        checkpoint = msgspec.json.encode(state)
        ctx.events.append(node_finished(at))
        at = target
    ctx.events.append(RUN_FINISHED)
    return Walked(ctx.events, msgspec.json.decode(checkpoint))


async def _tried(node: Node[S], ctx: Recorder, checkpoint: bytes, state_type: type[S]) -> tuple[S, str]:
    """The state a node left and where it leads. Each try begins from the checkpoint."""
    for ctx.attempt in range(1, node.retries + 2):
        state = msgspec.json.decode(checkpoint, type=state_type)
        try:
            went = await node.run(ctx, state)
        except NodeFailed as failure:
            ctx.events.append(error_trace(failure.code, node.fn_name))
            if not failure.retry or ctx.attempt > node.retries:
                raise
        else:
            assert went is None or isinstance(went, str)
            return state, went or node.to[0]
    raise AssertionError
