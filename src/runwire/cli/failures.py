"""Failures as one sentence on stderr and an exit code. Expected ones never show a traceback."""

from __future__ import annotations

import errno

import runwire
from runwire.errors import ConfigurationError, RunwireError, Unauthenticated

EXIT_CODES_HELP = (
    "Exit codes: 0 done · 1 it failed (also: the followed run failed, a check failed) · 2 wrong usage or settings · "
    "3 no such run · 4 the server or the database cannot be reached · 130 interrupted"
)


def sentences_of(error: RunwireError | OSError) -> tuple[str, ...]:
    """The text to print: one line, or for settings one line per mistake."""
    if isinstance(error, ConfigurationError):
        return error.problems
    if isinstance(error, OSError):
        if error.errno == errno.EADDRINUSE:
            return (f"{_bound_address(error)} is in use by another process: take another port, or 0 for a free one",)
        said = error.strerror or str(error)
        return (f"{error.filename}: {said}" if isinstance(error.filename, str) else said,)
    if error.code == "server_unreachable":  # by code: the client, which has its type, is slow to import
        return (f"{error} (is `runwire serve` running? --url or RUNWIRE_URL says where)",)
    if isinstance(error, Unauthenticated):
        return (f"{error} (--token or RUNWIRE_TOKEN: a token or an API key)",)
    return (" ".join(str(error).split()),)


def defect(error: Exception) -> str:
    """One sentence for an unexpected error: its type and place, never its text, which may quote a secret."""
    at = error.__traceback__
    place = "nowhere"
    while at is not None:
        path = at.tb_frame.f_code.co_filename.replace("\\", "/")
        if "/runwire/" in path:
            place = f"runwire/{path.rpartition('/runwire/')[2]}:{at.tb_lineno}"
        at = at.tb_next
    return f"unexpected error, a defect of runwire {runwire.__version__}: {type(error).__name__} at {place}"


def _bound_address(error: OSError) -> str:
    """Out of asyncio's text, `error while attempting to bind on address ('127.0.0.1', 8080): ...`."""
    _, found, rest = (error.strerror or "").partition("on address (")
    return rest.partition(")")[0].replace("'", "").replace(", ", ":") if found else "the address"
