"""Agents as graphs of async nodes, checked as a whole before anything runs."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from runwire.clock import longest_pause_s
from runwire.errors import GraphError
from runwire.model.event import NAME_PATTERN

END: Final = "END"
"""Where a run goes when it is done: name it in `to`, or return it from a node."""

DEFAULT_TIMEOUT_S: Final = 10.0

S = TypeVar("S")
_NAME = re.compile(NAME_PATTERN)
_NODE_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")  # so that it can stand in a DebugTrace's fn


class Context(Protocol):
    """What a node may know of its run, and the one thing it may say."""

    @property
    def run_id(self) -> str: ...

    @property
    def agent(self) -> str: ...

    @property
    def attempt(self) -> int:
        """1 for the first try of this node since it was entered, then 2, 3, ..."""

    def trace(self, fn: str) -> None:
        """Appends a DebugTrace, durable before the node's NodeFinished. `fn` is an identifier, never a payload."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Returned by a node: the run rests in `waiting`, holding no worker, until `POST .../signal` names `signal`."""

    signal: str
    then: str


BACKOFF_MAX_S: Final = 60.0
"""The longest pause between two tries of a node."""
_RETRIES_COUNTED: Final = 1_000_000_000
_PAUSES_COUNTED: Final = 65  # from there on they are all as long

NodeFn = Callable[[Context, S], Awaitable[str | Wait | None]]


@dataclass(frozen=True, slots=True)
class Node(Generic[S]):
    """A step of an agent. `fn_name` is its identifier in error traces (`OpenApp` -> `openApp`)."""

    name: str
    run: NodeFn[S]
    to: tuple[str, ...]
    timeout_s: float
    retries: int
    backoff_s: float
    on_error: str | None

    @property
    def fn_name(self) -> str:
        return self.name[:1].lower() + self.name[1:]

    @property
    def longest_s(self) -> float:
        """The longest that all its tries, and the pauses between them, may take."""
        retries = min(self.retries, _RETRIES_COUNTED)
        pauses_s = [
            longest_pause_s(n, first_s=self.backoff_s, longest_s=BACKOFF_MAX_S)
            for n in range(1, min(retries, _PAUSES_COUNTED) + 1)
        ]
        level_s = pauses_s[-1] * (retries - len(pauses_s)) if pauses_s else 0.0
        return self.timeout_s * (retries + 1) + sum(pauses_s) + level_s

    def exits(self) -> tuple[str, ...]:
        """Every place a run may go from here, recovery included."""
        return self.to if self.on_error is None else (*self.to, self.on_error)


class Agent(Generic[S]):
    """A named graph of nodes over a state that is checkpointed after each of them.

    `state` is a dataclass or msgspec.Struct; a run's `input` (a JSON object) is converted to it, and it is what
    nodes read and change in place. See `node` for the rest and `check` for what is refused at start-up.
    """

    def __init__(self, name: str, *, start: str, state: type[S]) -> None:
        self.name = name
        self.start = start
        self.state = state
        self._nodes: dict[str, Node[S]] = {}
        self._declared_twice: list[str] = []

    @property
    def nodes(self) -> Mapping[str, Node[S]]:
        return self._nodes

    def node(
        self,
        *,
        to: str | Iterable[str] = END,
        name: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = 0,
        backoff_s: float = 0.2,
        on_error: str | None = None,
    ) -> Callable[[NodeFn[S]], NodeFn[S]]:
        """Declares the decorated coroutine function as a node.

        Its name is the function's in CamelCase unless given. With one `to` the function may return None; otherwise
        it returns one of them, or `Wait(signal, then=one_of_them)`. A try is cut after `timeout_s` seconds;
        `retries` more follow, `backoff_s` (doubling, jittered) apart; then the run goes to `on_error`, or fails.
        A node may run again after a crash, so its effects outside the state should be idempotent.
        """

        def declare(fn: NodeFn[S]) -> NodeFn[S]:
            node_name = name or "".join(part.capitalize() for part in getattr(fn, "__name__", "").split("_"))
            if node_name in self._nodes:
                self._declared_twice.append(node_name)
            targets = (to,) if isinstance(to, str) else tuple(to)
            self._nodes[node_name] = Node(node_name, fn, targets, timeout_s, retries, backoff_s, on_error)
            return fn

        return declare

    def check(self) -> None:
        """Raises GraphError naming every problem: unknown, unreachable or unnamed nodes, no way to the end."""
        problems = [f"node {name!r} is declared twice" for name in self._declared_twice]
        if not _NAME.fullmatch(self.name):
            problems.append("the agent's name must match " + NAME_PATTERN)
        if self.start not in self._nodes:
            problems.append(f"start node {self.start!r} is not declared")
        for node in self._nodes.values():
            problems += self._problems_of(node)
        if not problems:
            reachable = _closure({self.start}, lambda name: self._nodes[name].exits())
            problems += [f"node {n!r} cannot be reached from {self.start!r}" for n in self._nodes if n not in reachable]
            into: dict[str, set[str]] = {}
            for node in self._nodes.values():
                for target in node.exits():
                    into.setdefault(target, set()).add(node.name)
            ending = _closure({END}, lambda name: into.get(name, ()))
            problems += [f"node {n!r} has no way to the end" for n in self._nodes if n not in ending]
        if problems:
            raise GraphError(self.name, tuple(problems))

    def _problems_of(self, node: Node[S]) -> list[str]:
        problems = []
        if not _NODE_NAME.fullmatch(node.name) or node.name == END:
            problems.append(f"node name {node.name!r} must match {_NODE_NAME.pattern} and not be {END!r}")
        if not node.to:
            problems.append(f"node {node.name!r} leads nowhere")
        problems += [
            f"node {node.name!r} leads to unknown node {target!r}"
            for target in node.exits()
            if target != END and target not in self._nodes
        ]
        # Said this way round so that NaN is refused too.
        if not (0 < node.timeout_s < math.inf and node.retries >= 0 and 0 <= node.backoff_s < math.inf):
            problems.append(f"node {node.name!r} needs finite timeout_s > 0, retries >= 0 and finite backoff_s >= 0")
        return problems


def _closure(seeds: set[str], neighbours: Callable[[str], Iterable[str]]) -> set[str]:
    seen = set(seeds)
    frontier = list(seeds)
    while frontier:
        for name in neighbours(frontier.pop()):
            if name not in seen and name != END:
                seen.add(name)
                frontier.append(name)
    return seen


class Agents:
    """The agents a process knows, by name. Each is checked when it is added."""

    def __init__(self, agents: Iterable[Agent[Any]] = ()) -> None:
        self._by_name: dict[str, Agent[Any]] = {}
        for agent in agents:
            self.add(agent)

    def add(self, agent: Agent[Any]) -> None:
        agent.check()
        known = self._by_name.setdefault(agent.name, agent)
        if known is not agent:
            raise GraphError(agent.name, ("the name is taken by another agent",))

    def get(self, name: str) -> Agent[Any] | None:
        return self._by_name.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._by_name))
