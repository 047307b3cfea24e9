"""Finds every mistake in an agent's declaration at once, before anything runs."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from runwire.model.event import NAME_PATTERN, is_name
from runwire.model.names import class_name
from runwire.model.state import schema_problems, state_problems
from runwire.model.waits import Sleep, Wait

END: Final = "END"
"""The target that ends a run: `@agent.node(to=END)`."""
TIMEOUT_MAX_S: Final = 30 * 86_400.0
RETRIES_MAX: Final = 1_000_000
BACKOFF_GIVEN_MAX_S: Final = 3600.0

_NODE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")  # so that it can stand in a DebugTrace's fn


def is_async(fn: object) -> bool:
    """Whether calling it gives a coroutine: a coroutine function, or an object whose `__call__` is one."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(_call_of(fn))


def _call_of(fn: object) -> object:
    """The method that calls it, where it is an object with one."""
    return next((vars(base)["__call__"] for base in type(fn).__mro__ if "__call__" in vars(base)), None)


def problems_of(name: object, start: object, state: object, nodes: Mapping[str, Any]) -> Iterator[str]:
    """One sentence for each: of the agent, of its state, of its nodes, and then of the graph they make."""
    if not is_name(name):
        yield f"the agent's name must match {NAME_PATTERN}, not {_shown(name)}"
    yield from state_problems(state)
    if not isinstance(start, str) or start not in nodes:
        yield f"start node {_shown(start)} is not declared"
    for node in nodes.values():
        yield from _problems_of_node(node, nodes)
    yield from _problems_of_schemas(nodes)


def _problems_of_schemas(nodes: Mapping[str, Any]) -> Iterator[str]:
    """Of the signals that the nodes declare: each name has one schema, and that is one that JSON brings back."""
    schemas: dict[str, Any] = {}
    looked_at: list[Any] = []
    for node in nodes.values():
        for name, schema in (node.signals or {}).items():
            if schemas.setdefault(name, schema) is not schema and schemas[name] != schema:
                yield f"signal {name!r} has two schemas, the second at node {_shown(node.name)}"
            if schema is not None and not any(schema is one for one in looked_at):
                looked_at.append(schema)
                yield from (f"node {_shown(node.name)}: {problem}" for problem in schema_problems(schema))


def problems_of_expectation(expected_s: object) -> Iterator[str]:
    if expected_s is not None and (not _between(expected_s, 0, TIMEOUT_MAX_S) or expected_s == 0):
        yield f"expected_s is in seconds, above 0 and at most {TIMEOUT_MAX_S:.0f}"


def problems_of_graph(start: str, nodes: Mapping[str, Any]) -> Iterator[str]:
    """Of sound nodes only: those that no run can reach, and those from which no run comes to its end."""
    reachable = _closure({start}, lambda name: nodes[name].exits())
    yield from (f"node {n!r} cannot be reached from {start!r}" for n in nodes if n not in reachable)
    into: dict[str, set[str]] = {}
    for node in nodes.values():
        for target in node.exits():
            into.setdefault(target, set()).add(node.name)
    ending = _closure({END}, lambda name: into.get(name, ()))
    yield from (f"node {n!r} has no way to the end" for n in nodes if n not in ending)


def _problems_of_node(node: Any, nodes: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(node.name, str) or not _NODE_NAME.fullmatch(node.name) or node.name == END:
        yield f"node name {_shown(node.name)} must match ^{_NODE_NAME.pattern}$ and not be {END!r}"
    name = _shown(node.name)
    yield from (f"node {name} {problem}" for problem in _problems_of_function(node.run))
    yield from (
        f"node {name} waits for {_shown(wait)}, which is no Wait"
        for wait in node.waits
        if not isinstance(wait, (Wait, Sleep))
    )
    if not node.to:
        yield f"node {name} leads nowhere"
    for target in node.exits():
        if not isinstance(target, str):
            yield f"node {name} leads to {_shown(target)}, which is no node's name"
        elif target != END and target not in nodes:
            yield f"node {name} leads to unknown node {target!r}"
    if not _between(node.timeout_s, 0, TIMEOUT_MAX_S) or node.timeout_s == 0:
        yield f"node {name} needs a timeout_s in seconds, above 0 and at most {TIMEOUT_MAX_S:.0f}"
    if not isinstance(node.retries, int) or not _between(node.retries, 0, RETRIES_MAX):
        yield f"node {name} needs retries that are a whole number from 0 to {RETRIES_MAX}"
    if not _between(node.backoff_s, 0, BACKOFF_GIVEN_MAX_S):
        yield f"node {name} needs a backoff_s in seconds, from 0 to {BACKOFF_GIVEN_MAX_S:g}"


def _problems_of_function(fn: Any) -> Iterator[str]:
    called = fn if inspect.isroutine(fn) else _call_of(fn)
    if isinstance(fn, type) or not callable(fn):
        yield f"must be a function, not {'a class' if isinstance(fn, type) else _shown(fn)}"
        return
    if any(map(inspect.isasyncgenfunction, (fn, called))) or any(map(inspect.isgeneratorfunction, (fn, called))):
        yield "is a generator: a node returns where the run goes next, it does not yield"
        return
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some callables of C do not say
        return
    try:
        signature.bind(None, None)
    except TypeError:
        yield f"must take two arguments, (ctx, state), not {signature}"


def _between(said: object, least: float, most: float) -> bool:
    return type(said) in (int, float) and math.isfinite(said) and least <= said <= most  # type: ignore[arg-type, operator]


def _shown(said: object) -> str:
    """A string as it is written, of anything else the type only: its own text is code, too."""
    if type(said) is str or said is None:
        return repr(said)
    return f"an object of type {class_name(type(said))}"


def _closure(seeds: set[str], neighbours: Callable[[str], Iterable[str]]) -> set[str]:
    seen = set(seeds)
    frontier = list(seeds)
    while frontier:
        for name in neighbours(frontier.pop()):
            if name not in seen and name != END:
                seen.add(name)
                frontier.append(name)
    return seen
