"""Where commands print: results on stdout, everything else on stderr. NO_COLOR and pipes get plain text."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import msgspec
from rich.console import Console

_PIPE_WIDTH = 160


def console(*, stderr: bool = False) -> Console:
    """A console that wraps for people, and hardly for programs."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=not stream.isatty(), emoji=False)


def print_json(value: Any) -> None:
    """One line of JSON on stdout, at once."""
    sys.stdout.write(msgspec.json.encode(value, enc_hook=str).decode() + "\n")
    sys.stdout.flush()


def say(line: str) -> None:
    """A line on stderr, for people; dropped where it cannot be written."""
    with contextlib.suppress(OSError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def duration(ms: float) -> str:
    """`7 ms`, `1.25 s`, `3 min 20 s`."""
    if ms < 1000:
        return f"{ms:.0f} ms"
    if ms < 60_000:
        return f"{ms / 1000:.2f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    return f"{minutes} min {seconds} s"
