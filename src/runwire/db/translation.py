"""Translates everything that a connection to PostgreSQL can raise into one of two errors of ours.

The server's class of SQLSTATE decides, not a list of known errors. Classes 22 and 23 are about a value, and the caller
must change it. All others, and every error of the driver or the network, pass or are mended, so callers wait them out.
"""

from __future__ import annotations

import re
from types import TracebackType
from typing import Final

import asyncpg

from runwire.errors import ConstraintViolated, DatabaseFailed, DatabaseUnavailable, RunwireError

TOO_MANY_CONNECTIONS: Final = "53300"
LOCK_NOT_AVAILABLE: Final = "55P03"
INSUFFICIENT_PRIVILEGE: Final = "42501"

_OF_A_VALUE: Final = ("22", "23")
# Errors of one statement, after which the session is still usable. 42501 is among them: another connection would lack
# the privilege, too.
_OF_A_STATEMENT: Final = ("40", "55", "P0")
_OF_A_STATEMENT_TOO: Final = frozenset({INSUFFICIENT_PRIVILEGE, "57014"})
_OF_THE_SERVER: Final = ("08", "25", "28", "3D", "40", "53", "55", "57")
"""Connections, read-only servers, credentials, restarts, and what others have locked: whoever asks, and for what."""


class NoPartition(ConstraintViolated):
    """A row belongs into a partition that does not exist; nothing was stored."""


class _Translated:
    """`with translated:` goes around each call of the driver, and nothing else, because it translates any Exception."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, RunwireError):
            raise translation_of(error) from error


translated: Final = _Translated()


def translation_of(error: Exception) -> DatabaseFailed:
    """Our error for one of the driver, the server or the network."""
    if not isinstance(error, (asyncpg.PostgresError, asyncpg.PostgresLogMessage)):
        return DatabaseUnavailable(f"PostgreSQL: {_kind(error)}")
    sqlstate = str(error.sqlstate or "")
    if not sqlstate.startswith(_OF_A_VALUE):
        return DatabaseUnavailable(f"PostgreSQL: {_kind(error)}", sqlstate=sqlstate or None)
    constraint = getattr(error, "constraint_name", None)
    if isinstance(error, asyncpg.CheckViolationError) and constraint is None:
        return NoPartition("partition")  # the one check violation that no constraint has made
    return ConstraintViolated(constraint or type(error).__name__)


def spoils(error: DatabaseFailed) -> bool:
    """Whether the connection must not be used again, because its transaction or its prepared statements are unknown."""
    if isinstance(error, ConstraintViolated):
        return False
    sqlstate = error.sqlstate if isinstance(error, DatabaseUnavailable) else None
    if sqlstate is None:
        return True
    return not (sqlstate.startswith(_OF_A_STATEMENT) or sqlstate in _OF_A_STATEMENT_TOO)


def of_a_statement(error: DatabaseFailed) -> bool:
    """Whether the server refused this statement but can still serve others: the error is not an outage."""
    if isinstance(error, ConstraintViolated):
        return True
    sqlstate = error.sqlstate if isinstance(error, DatabaseUnavailable) else None
    return sqlstate is not None and not sqlstate.startswith(_OF_THE_SERVER)


def _kind(error: BaseException) -> str:
    """`too many connections` of TooManyConnectionsError: never the server's words, which may name who asked."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__.removesuffix("Error")).lower()
