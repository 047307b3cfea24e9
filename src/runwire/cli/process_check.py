"""Checks of a process of this installation: its compiled parts, and its limit of descriptors."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from runwire.db.health import Finding

DESCRIPTORS_FEW: Final = 4096
"""A stream takes two. Below this a process should be given more before it has a thousand."""


def take_descriptors() -> int | None:
    """How many descriptors this process may have from here on: all it is allowed to. None where nobody counts."""
    try:
        import resource
    except ImportError:  # pragma: no cover  # not on Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # macOS says more than it gives
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    now = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if now == resource.RLIM_INFINITY else now


def examine_process() -> Finding:
    """Whether streams are written to in C, and for how many there are descriptors."""
    from runwire.db.health import Finding
    from runwire.stream import frames
    from runwire.stream.fanout import outlet

    compiled = frames.frames is not None and outlet.Socket is not None
    descriptors = take_descriptors()
    few = descriptors is not None and descriptors < DESCRIPTORS_FEW
    seen = "streams are written to in C" if compiled else "streams are written to in Python"
    remedies = []
    if not compiled and sys.platform == "linux":
        remedies.append("for more deliveries a core, install runwire where there is a C compiler and Python's headers")
    if descriptors is not None and descriptors != sys.maxsize:
        seen += f"; a process may have {descriptors:,} descriptors, two a stream"
    if few:
        remedies.append("allow more open files (ulimit -Hn, LimitNOFILE=)")
    return Finding("process", ok=not few, seen=seen, remedy="; ".join(remedies))
