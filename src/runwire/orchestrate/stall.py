"""Detects that the worker's event loop is blocked, since when, and by which line of which node."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import sysconfig
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Final

from runwire.clock import monotonic
from runwire.orchestrate.beat import Beat, NodeAtWork

STANDS_S: Final = 0.5
"""Seconds of silence after which an event loop counts as blocked. Lag under load is a tenth of it."""
CUT_EVERY_S: Final = 0.5
_LIBRARIES: Final = tuple({path for name in ("stdlib", "purelib", "platlib") if (path := sysconfig.get_path(name))})
_FRAMES_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Standing:
    """The event loop is blocked for `seconds`. `at` is `file:line function` of the innermost line outside libraries.

    `node` is None when no node is to blame, as far as can be seen.
    """

    seconds: float
    node: NodeAtWork | None
    at: str
    frames: tuple[str, ...]


class Stall:
    """Call `look` a few times a second from another thread. Each look costs the event loop one callback."""

    def __init__(self, loop: asyncio.AbstractEventLoop, beat: Beat, *, thread_id: int | None = None) -> None:
        self._loop = loop
        self._beat = beat
        self._thread_id = thread_id or threading.get_ident()
        self._answered = True
        self._asked_at = 0.0
        self._cut_at = 0.0
        beat.interruptible = lambda: not self._answered

    def look(self) -> Standing | None:
        """One step: None while the event loop answers. Cuts the node that blocks it after the node's time-out."""
        now = monotonic()
        if self._answered:
            self._answered, self._asked_at, self._beat.found = False, now, None
            with contextlib.suppress(RuntimeError):  # it is closed, and so will be the watch
                self._loop.call_soon_threadsafe(self._answer)
            return None
        stood_s = now - self._asked_at
        if stood_s < STANDS_S:
            return None
        if now - self._cut_at >= CUT_EVERY_S:
            self._cut_at = now
            self._beat.interrupt(self._thread_id)
        frames = list(_frames(sys._current_frames().get(self._thread_id)))  # noqa: SLF001  # documented, for this
        own = [frame for frame in frames if not frame.f_code.co_filename.startswith(_LIBRARIES)]
        return Standing(
            stood_s,
            self._beat.at_work or self._beat.found,
            _line(own[0]) if own else _line(frames[0]) if frames else "",
            tuple(_line(frame) for frame in frames[:_FRAMES_MAX]),
        )

    def _answer(self) -> None:
        self._answered = True


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _line(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
