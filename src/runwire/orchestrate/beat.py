"""Tells the watch which node runs in the worker's event loop, and cuts a node that blocks it.

Threads. The event loop enters and leaves nodes. The watch reads `at_work` and asks for interruptions. The signal
handler runs in the event loop's thread, at any point, and raises only inside a node.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, Final, TypeVar

from runwire.clock import monotonic

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_SIGNAL: Final = getattr(signal, "SIGURG", None)
"""Ignored by default, so a late one does no harm. Sockets send it only for out-of-band data."""


class NodeCut(BaseException):
    """Raised inside a node that blocks the event loop past its time-out. The node's code should let it pass."""


@dataclass(frozen=True, slots=True, eq=False)
class NodeAtWork:
    """One try of a node. `deadline` is its time-out, by the monotonic clock."""

    run_id: str
    agent: str
    node: str
    deadline: float


_node: ContextVar[NodeAtWork | None] = ContextVar("runwire_node", default=None)


def node_at_work() -> NodeAtWork | None:
    """The node that this code runs for: in its own task, in tasks and threads that it started."""
    return _node.get()


class Beat:
    """`of` wraps a node's coroutine, at a cost of some 100 ns for each of its steps."""

    __slots__ = ("at_work", "found", "interruptible")

    def __init__(self) -> None:
        self.at_work: NodeAtWork | None = None
        """The node whose own task the event loop is in, None between two steps."""
        self.found: NodeAtWork | None = None
        """The node that the last signal has met, in a task of the node's as well."""
        self.interruptible: Callable[[], bool] = lambda: False
        """Whether the event loop still stands; asked by the signal handler."""

    async def of(self, at_work: NodeAtWork, run: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs the node."""
        return await _stepped(self, at_work, run)

    @contextmanager
    def cutting(self) -> Iterator[None]:
        """Inside, `interrupt` works, provided that this is the main thread: others take no signals."""
        if _SIGNAL is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(_SIGNAL, self._interrupted)
        try:
            yield
        finally:
            signal.signal(_SIGNAL, before)

    def interrupt(self, thread_id: int) -> None:
        """Has the thread say in `found` what it is doing, and cuts a node that is past its deadline."""
        if _SIGNAL is not None and thread_id == threading.main_thread().ident:
            with contextlib.suppress(OSError):
                signal.pthread_kill(thread_id, _SIGNAL)

    def _interrupted(self, _signal: int, frame: FrameType | None) -> None:
        if not self.interruptible():
            return
        self.found = at_work = _node.get()
        if at_work is not None and monotonic() >= at_work.deadline and _is_node_code(frame):
            raise NodeCut


@types.coroutine
def _stepped(beat: Beat, at_work: NodeAtWork, run: Callable[[], Coroutine[Any, Any, T]]) -> Generator[Any, Any, T]:
    _node.set(at_work)
    body = run()
    value: Any = None
    error: BaseException | None = None
    while True:
        beat.at_work = at_work
        try:
            waits_for = body.send(value) if error is None else body.throw(error)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            beat.at_work = None
        try:
            value, error = (yield waits_for), None
        except GeneratorExit:
            body.close()
            raise
        except BaseException as thrown:  # noqa: BLE001  # cancellation above all: the node's to handle
            value, error = None, thrown


_STEPPED: Final[CodeType] = _stepped.__code__
_PASSED: Final[set[CodeType]] = set()
_OWN: Final = ("runwire.", "asyncio.", "uvloop")


def passes_cuts(function: F) -> F:
    """For code of ours between the event loop and a node's: it takes a NodeCut as it takes any exception."""
    _PASSED.add(function.__code__)
    return function


def was_cut(error: BaseException) -> bool:
    """Whether a node ended because it was cut, in its own task or in one of a task group."""
    kind = type(error)  # the object itself may be a node's, with its own idea of its class
    if issubclass(kind, BaseExceptionGroup):
        return BaseExceptionGroup.subgroup(error, NodeCut) is not None  # type: ignore[call-overload]
    return issubclass(kind, NodeCut)


def _is_node_code(frame: FrameType | None) -> bool:
    """Whether an exception raised here passes only through the node's own code and its callees.

    Raised inside our own code or the event loop's, it would leave their work half done.
    """
    innermost = frame
    while frame is not None:
        if frame.f_code is _STEPPED:
            return frame is not innermost
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith(_OWN) and not module.startswith("runwire.agents."):
            if frame is innermost:
                return False
            if frame.f_code not in _PASSED:
                return module.startswith("asyncio.")  # what called a task that the node has started
        frame = frame.f_back
    return False
