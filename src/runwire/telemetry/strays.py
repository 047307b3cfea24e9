"""Logs uncaught exceptions, such as those of tasks that an agent left running: type and frames, never the text.

Python and asyncio would write tracebacks to standard error, with the text of the exception and the arguments of the
callback in them, and warnings with what their author filled in.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import warnings
from typing import Any, Final, TextIO

from runwire.model.names import class_name
from runwire.telemetry.logs import LogEvent, get_logger

_SAID_CHARS: Final = 120
_log = get_logger()


def tell_of_strays(loop: asyncio.AbstractEventLoop) -> None:
    """From here on this process logs them as `library` lines: of the loop, of threads, of finalisers, and warnings."""
    loop.set_exception_handler(_of_loop)
    threading.excepthook = _of_thread
    sys.unraisablehook = _of_finaliser
    warnings.showwarning = _of_warning


def _of_loop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # `Exception in callback work('a name')`: what was called comes after these words.
    message, called, _what = str(context.get("message", "")).partition(" in callback ")
    said = f"{message} in callback" if called else message.partition("\n")[0]
    _tell("asyncio", said[:_SAID_CHARS], context.get("exception"))


def _of_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:  # which ends a thread in silence, as everywhere
        _tell("threading", "Exception in thread", args.exc_value)


def _of_finaliser(unraisable: sys.UnraisableHookArgs) -> None:
    _tell("python", "Exception ignored", unraisable.exc_value)


def _of_warning(  # noqa: PLR0917  # the interpreter's signature
    message: Warning | str,  # noqa: ARG001  # its author's text
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    _log.warning(LogEvent.LIBRARY, logger="py.warnings", message=f"{class_name(category)} at {filename}:{lineno}")


def _tell(logger: str, message: str, error: object) -> None:
    told = error if isinstance(error, BaseException) else None
    _log.error(LogEvent.LIBRARY, logger=logger, message=message, exc_info=told)
