"""Agents as graphs of async nodes, checked as a whole before anything runs."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar, cast

from runwire.clock import longest_pause_s
from runwire.errors import GraphError
from runwire.model.content import OCTETS, Artifact
from runwire.model.declaration import END, is_async, problems_of, problems_of_expectation, problems_of_graph
from runwire.model.names import class_name, plain
from runwire.model.state import StateType
from runwire.model.waits import Signal, Sleep, Wait
from runwire.model.written_waits import written_signals

__all__ = ["DEFAULT_TIMEOUT_S", "END", "Agent", "Agents", "Context", "Node", "NodeFn", "Signal", "Sleep", "Wait"]

DEFAULT_TIMEOUT_S: Final = 10.0

S = TypeVar("S")

Data: TypeAlias = bytes | bytearray | memoryview | str | AsyncIterable[bytes | str]
"""The bytes of content. Text is stored as UTF-8."""


class Context(Protocol):
    """A node's view of its run: the run's facts, and `trace` to append a DebugTrace."""

    @property
    def run_id(self) -> str:
        """The run's id. With the node's name it makes a good idempotency key."""

    @property
    def agent(self) -> str:
        """The name of the run's agent."""

    @property
    def attempt(self) -> int:
        """1 for the first try of this node since it was entered, then 2, 3, ..."""

    @property
    def signal(self) -> Signal | None:
        """The signal with which the run went on at this node; None if it came from another node, or by a time-out.

        Raises NodeFailed (`bad_signal`) when the data does not fit the Wait's schema, which a deploy may have changed.
        """

    def trace(self, fn: str) -> None:
        """Appends a DebugTrace, durable before the node's NodeFinished. `fn` is an identifier, never a payload.

        May be called from any thread. Raises InvalidRequest when `fn` is not an identifier, or claims to tell of
        content (`artifact:`, `part:`), RuntimeError once the node has ended.
        """

    async def artifact(self, name: str, data: Data, *, media_type: str = OCTETS) -> Artifact:
        """Stores a piece of content of the run, and returns it once it is durable, with its event.

        `data` is bytes, text, or an async iterator of them, which is never held whole in memory. `name` is 1 to 5 words
        of `A-Za-z0-9_` with dots between. A retried node that makes the bytes of the newest artifact of that name gets
        that artifact again. Other bytes become a new one.

        Raises InvalidRequest, ArtifactTooLarge, TooManyArtifacts, ContentQuotaExceeded, ContentUnavailable; a node that
        lets one of them out fails with its code. A node that is not `async` calls it in its thread, where it returns
        when the artifact is stored, and takes no iterator.
        """

    def result(self, value: Any) -> Awaitable[None]:
        """Makes `value`, as JSON, the run's result: an artifact named `result`, stored with the node's NodeFinished.

        A failed try leaves no result. Of several calls, the last one counts, and of several nodes' results
        the newest. Raises NodeFailed (`bad_result`) when no JSON can hold the value. There is no need to await it.
        """

    def part(self, name: str, *, media_type: str = "text/plain") -> AbstractAsyncContextManager[PartInProgress]:
        """Opens a part of the run: content that users see while it is made.

        `async with ctx.part("answer", media_type="text/markdown") as part: await part.write(chunk)`. The part is sealed
        with the node's NodeFinished. When the block raises, or the node fails, the part is abandoned; the next try
        begins a new attempt of it. For `async` nodes. Raises InvalidRequest for a name that is no identifier, and
        NodeFailed when the run has as many parts as the service allows.
        """


class PartInProgress(Protocol):
    """One attempt of a part, for the node that writes it."""

    @property
    def n(self) -> int:
        """The number of the part in its run: 1, 2, ..."""

    @property
    def attempt(self) -> int:
        """1 for the first, then 2, 3, ..."""

    @property
    def size(self) -> int:
        """Bytes that were written."""

    async def write(self, chunk: str | bytes) -> None:
        """Adds bytes; text is encoded as UTF-8. They are durable and on their way to readers within milliseconds.

        Waits while PostgreSQL is behind. Raises NodeFailed (`part_too_large`), and PartRefused when another worker has
        taken the run over.
        """


BACKOFF_MAX_S: Final = 60.0
"""The longest pause in seconds between two tries of a node."""
_TO_UNSAID: Final = (END,)
_RETRIES_COUNTED: Final = 1_000_000_000
_PAUSES_COUNTED: Final = 65  # all later pauses are BACKOFF_MAX_S long

NodeFn = Callable[[Context, S], Awaitable[str | Wait | Sleep | None]]
PlainNodeFn = Callable[[Context, S], str | Wait | Sleep | None]
AnyNodeFn = NodeFn[S] | PlainNodeFn[S]


@dataclass(frozen=True, slots=True)
class Node(Generic[S]):
    """A step of an agent. `fn_name` is its identifier in error traces (`OpenApp` -> `openApp`).

    With `in_thread` its function is not `async`, and a worker calls it in a thread, where it may block.
    """

    name: str
    run: NodeFn[S]
    to: tuple[str, ...]
    timeout_s: float
    retries: int
    backoff_s: float
    on_error: str | None
    in_thread: bool = False
    waits: tuple[Wait | Sleep, ...] = ()
    """The waits that it declares. It returns only those, with any times and targets. Without any it may wait for every
    signal, with the schema of a Wait that its function returns as it is written.
    """
    waits_by_default: bool = False
    """None as its result is the one wait that it declares."""

    @property
    def signals(self) -> Mapping[str, Any] | None:
        """The schema, or None, of each signal for which it may wait; None where nobody can tell for which."""
        if self.waits:
            return {name: wait.schema for wait in self.waits if isinstance(wait, Wait) for name in wait.names}
        return written_signals(self.run)

    @property
    def fn_name(self) -> str:
        return self.name[:1].lower() + self.name[1:]

    @property
    def longest_s(self) -> float:
        """The most seconds that all its tries and the pauses between them may take."""
        retries = min(self.retries, _RETRIES_COUNTED)
        pauses_s = [
            longest_pause_s(n, first_s=self.backoff_s, longest_s=BACKOFF_MAX_S)
            for n in range(1, min(retries, _PAUSES_COUNTED) + 1)
        ]
        level_s = pauses_s[-1] * (retries - len(pauses_s)) if pauses_s else 0.0
        return self.timeout_s * (retries + 1) + sum(pauses_s) + level_s

    def exits(self) -> tuple[str, ...]:
        """Every node that may follow this one, recovery included."""
        return self.to if self.on_error is None else (*self.to, self.on_error)


class Agent(Generic[S]):
    """A named graph of nodes over a state that is checkpointed after each of them.

    `state` is a dataclass, a msgspec.Struct or a pydantic model; a run's `input` (a JSON object) is converted to it,
    and nodes read and change it in place. `node` declares a node; `check` names every mistake of the declaration.

    `expected_s`: seconds of work, without waits, after which a run counts as overdue and somebody is told.
    """

    def __init__(self, name: str, *, start: str, state: type[S], expected_s: float | None = None) -> None:
        self.name: str = _named(name)
        self.start: str = _named(start)
        self.state = state
        self.expected_s = expected_s
        self._nodes: dict[str, Node[S]] = {}
        self._misdeclared: list[str] = []

    @cached_property
    def state_type(self) -> StateType[S]:
        """Converts the state from and to JSON. Raises what the class raises; `check` reports it first."""
        return StateType(self.state)

    @property
    def comes_along(self) -> bool:
        """Whether the agent is one of runwire's own."""
        return any(
            str(getattr(node.run, "__module__", "")).startswith("runwire.agents.") for node in self.nodes.values()
        )

    @property
    def nodes(self) -> Mapping[str, Node[S]]:
        """The declared nodes by name."""
        return self._nodes

    def node(
        self,
        *,
        to: str | Iterable[str] = _TO_UNSAID,
        waits: Wait | Sleep | Iterable[Wait | Sleep] = (),
        name: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = 0,
        backoff_s: float = 0.2,
        on_error: str | None = None,
    ) -> Callable[[AnyNodeFn[S]], AnyNodeFn[S]]:
        """Declares the decorated function as a node. The worker calls a function that is not `async` in a thread.

        Its name is the function's in CamelCase unless given. With one `to` the function may return None; otherwise it
        returns one of them, or a Wait or Sleep that leads to them. `waits` declares the waits that it may return, so
        that signals are checked when they are sent; where they lead need not be in `to`. With one of them and no `to`
        the function may return None.

        A try is cut after `timeout_s` seconds. Up to `retries` more tries follow, `backoff_s` seconds (doubling,
        jittered) apart. Then the run goes to `on_error`, or fails. A node may run again after a crash, so its effects
        outside the state should be idempotent.
        """

        def declare(fn: AnyNodeFn[S]) -> AnyNodeFn[S]:
            node_name = (
                "".join(part.capitalize() for part in _written_name(fn).split("_")) if name is None else _named(name)
            )
            try:
                if node_name in self._nodes:
                    self._misdeclared.append(f"node {node_name!r} is declared twice")
                declared = (waits,) if isinstance(waits, (Wait, Sleep)) else tuple(waits)
                targets = tuple(map(_named, (to,) if isinstance(to, str) else to))
            except TypeError:  # a name that is not hashable, targets that are not iterable
                kind = class_name(type(to))
                self._misdeclared.append(
                    f"node {_written_name(fn)!r} needs a name, one or several `to`, and Waits as `waits`, not {kind}"
                )
                return fn
            led_to = [_named(target) for wait in declared for target in getattr(wait, "targets", ())]
            if led_to:
                targets = tuple(dict.fromkeys([*(() if to is _TO_UNSAID else targets), *led_to]))
            self._nodes[node_name] = Node(
                node_name,
                cast(NodeFn[S], fn),
                targets,
                timeout_s,
                retries,
                backoff_s,
                _named(on_error),
                in_thread=not is_async(fn),
                waits=declared,
                waits_by_default=to is _TO_UNSAID and len(declared) == 1,
            )
            return fn

        return declare

    def expected_or(self, usual_s: float) -> float:
        """Seconds of work that a run may take: as declared, else `usual_s`, or its longest `timeout_s` if more."""
        if self.expected_s is not None:
            return self.expected_s
        return max([usual_s, *(node.timeout_s for node in self._nodes.values())])

    def may_wait_for(self, signal: str) -> bool:
        """Whether a node of it can ever wait for a signal of that name, as far as that shows in its nodes."""
        return signal in self.signals or self.may_wait_for_others

    @property
    def may_wait_for_others(self) -> bool:
        """Whether a node of it does not say for which signals it may wait, so that it may be any."""
        return any(node.signals is None for node in self._nodes.values())

    def schema_of(self, signal: str) -> StateType[Any] | None:
        """Converts the data of that signal; None when no node declares a schema for it."""
        return self.signals.get(signal)

    @cached_property
    def signals(self) -> Mapping[str, StateType[Any] | None]:
        """The type of the data, or None, of each signal for which a node says that it may wait."""
        signals = [item for node in self._nodes.values() for item in (node.signals or {}).items()]
        return {name: None if schema is None else StateType(schema) for name, schema in signals}

    def check(self) -> None:
        """Raises GraphError naming every problem of the declaration: names, state, nodes, and the graph they make."""
        problems = [
            *self._misdeclared,
            *problems_of(self.name, self.start, self.state, self._nodes),
            *problems_of_expectation(self.expected_s),
        ]
        if not problems:
            problems += problems_of_graph(self.start, self._nodes)
        if problems:
            raise GraphError(self.name, tuple(problems))


def _named(said: Any) -> Any:
    """A name as plain text: a member of an enumeration would be shown by its own name, in metrics for one. Anything
    else as it is, for `check` to refuse.
    """
    return plain(said) if issubclass(type(said), str) else said


def _written_name(fn: object) -> str:
    name = getattr(fn, "__name__", "")
    return name if type(name) is str else ""


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

    def expected_s(self, usual_s: float) -> dict[str, float]:
        """Seconds of work that a run of each may take, by name; `usual_s` where nothing is declared."""
        return {name: self._by_name[name].expected_or(usual_s) for name in self.names}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._by_name))

    @property
    def names_by_owner(self) -> tuple[str, ...]:
        """The names of users' agents, then of those that come with runwire: labels of metrics are for few names."""
        return tuple(sorted(self._by_name, key=lambda name: (self._by_name[name].comes_along, name)))
