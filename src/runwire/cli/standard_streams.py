"""The standard streams of a service: there from the start, and never in its way."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runwire.telemetry.line_writer import LineWriter


def open_standard_descriptors() -> None:
    """Opens those of 0, 1 and 2 that the parent has closed on /dev/null: else the next socket or file would be one."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest one that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "w" if descriptor else "r", encoding="utf-8", closefd=False))  # noqa: SIM115  # for good
        elif name != "stdin":
            # Escapes characters that the locale cannot show, instead of raising an error.
            getattr(sys, name).reconfigure(errors="backslashreplace")


def settle_output() -> bool:
    """Whether what stdout still holds could be written. If not, it goes nowhere, and no error ends the process."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def queue_standard_output(dropped: Callable[[], object]) -> None:
    """From here on stdout and stderr of this process, `print` in a node included, go through a `LineWriter`.

    A reader that hangs delays no writer. When the process ends, each waits a second at most for its reader.
    """
    from runwire.telemetry.line_writer import LineWriter

    for name in ("stdout", "stderr"):
        try:
            descriptor = getattr(sys, name).fileno()
        except (OSError, ValueError):  # not the process's own: somebody else, such as a test, has taken its place
            continue
        writer = LineWriter(descriptor, dropped=dropped)
        text = io.TextIOWrapper(writer, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        setattr(sys, name, text)
        atexit.register(_end, text, writer)


def _end(text: io.TextIOWrapper[LineWriter], writer: LineWriter) -> None:
    text.flush()
    writer.drain()
