"""One try of a node: calls its function, catches everything that it raises, and judges the result.

A node may raise or return anything at all. asyncio passes SystemExit and KeyboardInterrupt of a task on through its
loop, which would end the process, so a node's exception becomes the result of its task. Objects that a node returned or
raised are code, too: they are looked at where an exception costs the try and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from runwire.content import Artifacts, NewArtifact
from runwire.errors import (
    ContentUnavailable,
    DatabaseUnavailable,
    GraphError,
    InvalidRequest,
    NodeFailed,
    RunwireError,
    StateRefused,
    StorageUnavailable,
)
from runwire.model.content import JSON, OCTETS, RESULT, Artifact, check_not_reserved
from runwire.model.event import debug_trace
from runwire.model.graph import Data, Node, Signal, Sleep, Wait
from runwire.model.names import class_name, code_of
from runwire.orchestrate.beat import passes_cuts, was_cut
from runwire.orchestrate.node_parts import NodePart, NodeParts
from runwire.orchestrate.run_log import RunLog
from runwire.telemetry.logs import frames_of

_FRAMES_TOLD: Final = 5
_LATE_TRACES_MAX: Final = 10_000


class NodeContext:
    """The `Context` of a node while it runs. A node that is not `async` uses it from its thread."""

    __slots__ = (
        "_artifacts",
        "_late",
        "_log",
        "_loop",
        "_loop_thread",
        "_parts",
        "_result",
        "_signal",
        "agent",
        "attempt",
        "run_id",
    )

    def __init__(
        self,
        log: RunLog,
        parts: NodeParts,
        agent: str,
        attempt: int,
        *,
        artifacts: Artifacts | None,
        signal: Callable[[], Signal | None] = lambda: None,
    ) -> None:
        """`signal` decodes the one with which the run went on; it is called once, if the node asks. Without
        `artifacts` the node can store no content.
        """
        self._signal: Callable[[], Signal | None] | Signal | None = signal
        self.run_id = log.run_id
        self.agent = agent
        self.attempt = attempt
        self._log: RunLog | None = log
        self._artifacts = artifacts
        self._parts: NodeParts | None = parts
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._late = 0
        self._result: bytes | None = None

    @property
    def signal(self) -> Signal | None:
        if callable(self._signal):
            try:
                self._signal = self._signal()
            except InvalidRequest as error:
                raise NodeFailed("bad_signal", error.detail, retry=False) from None
        return self._signal

    def trace(self, fn: str) -> None:
        log = self._open_log
        if type(fn) is not str:
            fn = debug_trace(fn).fn or ""
        check_not_reserved(fn)
        if threading.get_ident() == self._loop_thread:
            log.trace(fn)
            return
        debug_trace(fn)  # said to the caller, not to the loop
        if self._late >= _LATE_TRACES_MAX:
            raise NodeFailed("too_many_traces", retry=False)
        self._late += 1
        self._loop.call_soon_threadsafe(self._trace_late, fn)

    def artifact(self, name: str, data: Data, *, media_type: str = OCTETS) -> Any:
        """A coroutine on the event loop; in a node's own thread, the artifact itself."""
        storing = self._store(name, data, media_type)
        if threading.get_ident() == self._loop_thread:
            return storing
        return asyncio.run_coroutine_threadsafe(storing, self._loop).result()

    def result(self, value: Any) -> Awaitable[None]:
        _ = self._open_log
        try:
            self._result = msgspec.json.encode(value)
        except Exception as error:
            raise NodeFailed("bad_result", "no JSON can hold the result", retry=False) from error
        return _NOTHING

    async def prepared_result(self) -> NewArtifact | None:
        """The result that the node gave its run, ready to be appended; None without one, or with the one there is."""
        if self._result is None:
            return None
        patience = self._open_log.patience
        prepared = await self._content.prepare(self.run_id, RESULT, self._result, media_type=JSON, patience=patience)
        return prepared if isinstance(prepared, NewArtifact) else None

    @asynccontextmanager
    async def part(self, name: str, *, media_type: str = "text/plain") -> AsyncIterator[NodePart]:
        parts = self._parts
        if parts is None:
            raise RuntimeError("the node has ended, so it can write nothing more")
        if threading.get_ident() != self._loop_thread:
            raise RuntimeError("only `async` nodes write parts")
        part = await parts.open(name, media_type)
        yield part
        await part.complete()

    def end(self) -> None:
        self._log = self._parts = None

    @property
    def _open_log(self) -> RunLog:
        if self._log is None:  # a task the node left running; its traces would meet what the walk appends
            raise RuntimeError("the node has ended, so it can trace nothing more")
        return self._log

    @property
    def _content(self) -> Artifacts:
        if self._artifacts is None:
            raise ContentUnavailable("this worker stores no content")
        return self._artifacts

    async def _store(self, name: str, data: Data, media_type: str) -> Artifact:
        patience = self._open_log.patience
        prepared = await self._content.prepare(self.run_id, name, data, media_type=media_type, patience=patience)
        if isinstance(prepared, Artifact):
            return prepared
        await self._open_log.append_from_node(prepared.event, companion=prepared.store)
        return prepared.made()

    def _trace_late(self, fn: str) -> None:
        self._late -= 1
        if self._log is not None:
            with contextlib.suppress(RunwireError):  # what kept earlier ones from being stored is said to the walk
                self._log.trace(fn)


class _Nothing:
    """Nothing to wait for: `await` it or not."""

    def __await__(self) -> Iterator[None]:
        return iter(())


_NOTHING: Final[Awaitable[None]] = _Nothing()  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a node's function ended: it returned a value, or raised."""

    value: object = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """The result of one try of a node: the next node, or the code of its failure and the facts that may be logged."""

    exit_: str | Wait | Sleep | None = None
    code: str | None = None
    retry: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    result: NewArtifact | None = None
    outage: bool = False
    """It failed because the database is away."""


class Threads:
    """Permits for nodes that are not `async`: at most so many at once, each in a thread of its own.

    A thread cannot be interrupted. One whose node ran out of time goes on, and keeps its place until it ends.
    """

    def __init__(self, at_most: int) -> None:
        self._room = asyncio.Semaphore(at_most)

    async def call(self, function: Callable[[], Any], *, began: asyncio.Future[None]) -> Ended:
        """Waits for a permit, calls `began` when it has one, and returns how the function ended."""
        await self._room.acquire()
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Ended] = loop.create_future()

        def settle(how: Ended) -> None:
            self._room.release()
            if not ended.done():
                ended.set_result(how)

        def body(context: contextvars.Context) -> None:
            try:
                how = Ended(context.run(function))
            except BaseException as error:  # noqa: BLE001  # the whole point
                how = Ended(error=error)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, how)

        # A daemon thread, so that a stopping process does not wait for a node that hangs.
        thread = threading.Thread(target=body, args=(contextvars.copy_context(),), name="node", daemon=True)
        try:
            thread.start()
        except BaseException:
            self._room.release()
            raise
        if not began.done():
            began.set_result(None)
        return await ended


@passes_cuts
async def run_node(
    node: Node[Any], context: NodeContext, state: Any, threads: Threads, began: asyncio.Future[None]
) -> Ended:
    """How the node's function ended. Raises nothing, not even CancelledError."""
    try:
        if node.in_thread:
            how = await threads.call(lambda: node.run(context, state), began=began)
            if how.error is not None:
                return how
            value: Any = how.value
        else:
            value = node.run(context, state)
        if hasattr(type(value), "__await__"):  # not asked of the object, which may have its own idea of its class
            value = await value
    except BaseException as error:  # noqa: BLE001  # the whole point
        return Ended(error=error)
    return Ended(value)


def exit_of(node: Node[Any], returned: Any) -> str | Wait | Sleep:
    """The next node that the node's result names. Raises GraphError for one that it did not declare."""
    if returned is None and node.waits_by_default:
        returned = node.waits[0]
    if returned is None and len(node.to) == 1:
        return node.to[0]
    if issubclass(type(returned), Sleep):
        sleep = Sleep(_text(node, returned.then), returned.for_s, returned.until)
        _check_target(node, sleep.then)
        return sleep
    if issubclass(type(returned), Wait):
        return _wait_of(node, returned)
    target = _text(node, returned)
    _check_target(node, target)
    return target


def _wait_of(node: Node[Any], returned: Any) -> Wait:
    """A copy that holds plain values only: the node still has the one that it returned."""
    on_timeout = returned.on_timeout
    wait = Wait(
        then=_text(node, returned.then),
        any_of=tuple(_text(node, name) for name in returned.names),
        within_s=returned.within_s,
        on_timeout=None if on_timeout is None else _text(node, on_timeout),
        schema=returned.schema,
    )
    for target in wait.targets:
        _check_target(node, target)
    signals = node.signals or {}
    if node.waits and not signals.keys() >= set(wait.names):
        raise GraphError(node.name, ("returned a Wait for a signal that it did not declare",))
    schemas = [signals.get(name) for name in wait.names]
    if not all(schema is wait.schema or schema == wait.schema for schema in schemas):
        raise NodeFailed("bad_wait", "a Wait with a schema must be declared with `waits`", retry=False)
    return wait


def _text(node: Node[Any], said: Any) -> str:
    if not issubclass(type(said), str):
        raise GraphError(node.name, (f"returned a {class_name(type(said))}",))
    return str.__str__(said)  # of an enumeration's member: its value


def _check_target(node: Node[Any], target: str) -> None:
    if target not in node.to:
        raise GraphError(node.name, ("returned a node that it did not declare",))


def judged(judge: Callable[[], Tried]) -> Tried:
    """The judge's result, or a failure when reading the node's objects raises."""
    try:
        return judge()
    except StateRefused as error:
        return Tried(code=error.code, retry=True)
    except GraphError:
        return Tried(code="bad_exit")
    except NodeFailed as error:
        return Tried(code=code_of(error.code), retry=error.retry)
    except BaseException:  # noqa: BLE001  # a property or an operator of an object of user code
        return Tried(code="exception", retry=True)


def failure_of(error: BaseException) -> Tried:
    """The bounded code of a node's exception, with its type and frames for the log; never its text."""
    kind = type(error)
    retry = True
    code = "exception"
    if issubclass(kind, NodeFailed):
        code, retry = code_of(error.code), bool(error.retry)  # type: ignore[attr-defined]
    elif issubclass(kind, RunwireError):
        code = code_of(error.code)  # type: ignore[attr-defined]
    elif issubclass(kind, asyncio.CancelledError):
        code, retry = "cancelled", False
    elif was_cut(error):
        code = "timeout"
    facts: dict[str, Any] = {}
    if code == "exception":
        facts = {"error_type": class_name(kind), "frames": frames_of(error)[-_FRAMES_TOLD:]}
    return Tried(code=code, retry=retry, facts=facts, outage=issubclass(kind, DatabaseUnavailable | StorageUnavailable))
