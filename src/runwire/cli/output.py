"""Where commands print: results on stdout, everything else on stderr. NO_COLOR and pipes get plain text."""

from __future__ import annotations

import codecs
import contextlib
import re
import sys
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from rich.console import Console

_PIPE_WIDTH = 160
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters with which text could command a terminal: all controls but tabs and ends of lines."""


def harmless(text: str) -> str:
    """The text as a terminal may get it, whoever wrote it."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


class ContentOutput:
    """Writes content to stdout: to a terminal as text that cannot command it, to anything else byte for byte."""

    def __init__(self) -> None:
        self._to_terminal = sys.stdout.isatty()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def write(self, data: bytes, *, last: bool = False) -> None:
        """At once. Half a character waits for its rest, or for the `last` piece."""
        if self._to_terminal:
            sys.stdout.write(harmless(self._decoder.decode(data, last)))
            sys.stdout.flush()
        else:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def console(*, stderr: bool = False) -> Console:
    """A console that wraps for people, and hardly for programs."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=not stream.isatty(), emoji=False)


def print_json(value: Any) -> None:
    """One line of JSON on stdout, at once."""
    sys.stdout.write(msgspec.json.encode(value, enc_hook=str).decode() + "\n")
    sys.stdout.flush()


def print_urls(urls: Mapping[str, str], *, as_json: bool) -> None:
    """The addresses of a demo by name: a table for people, or one object of JSON."""
    if as_json:
        print_json({"urls": urls})
        return
    out = console()
    for name, url in urls.items():
        out.print(f"[dim]{name:>8}[/]  {url}", soft_wrap=True)


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
