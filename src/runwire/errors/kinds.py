"""How an error is declared, and the table of all that clients can see.

An error is one class. Its body declares everything about it; the server, the client, the OpenAPI documents, the labels
of metrics, the exit codes of commands and the tables of the docs derive from it:

    class RunClosed(AppendError):
        kind = Kind("run_closed", 409, "The run has ended.")
        facts = (RUN_ID, STATE, LAST_SEQ)

`kind` makes the error public: clients see its code. An error without one has only a `code`, and clients see `internal`.
`facts` and `exit_code` are inherited. `others` are further codes of the same type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, ClassVar, Final


class ExitCode(IntEnum):
    """Exit codes of commands; public API."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Kind:
    """A code, with the HTTP status and the title of its problem (RFC 9457). The title has no detail of a request.

    `counted` names the metric, if any, that counts the error by its code. `bare`: its problem has none of the facts.
    """

    code: str
    status: int
    title: str
    counted: str = ""
    bare: bool = False

    @property
    def retry(self) -> bool:
        """Whether the same request may succeed later. Answers with such a status have Retry-After."""
        return self.status in (429, 503)


@dataclass(frozen=True, slots=True)
class Fact:
    """A member of a problem that carries an attribute of its error. `convert` reads it back in the client."""

    name: str
    attribute: str
    convert: Callable[[Any], object]
    meaning: str


RUN_ID: Final = Fact("runId", "run_id", str, "The run.")
STATE: Final = Fact("state", "state", str, "The run's state.")
LAST_SEQ: Final = Fact("lastSeq", "last_seq", int, "The newest seq of the run's log.")


@dataclass(frozen=True, slots=True)
class Declared:
    """A kind, and the type that an error of its code has; None for an answer that no type stands for."""

    kind: Kind
    error: type[RunwireError] | None

    @property
    def facts(self) -> tuple[Fact, ...]:
        return () if self.error is None or self.kind.bare else self.error.facts


_declared: Final[dict[str, Declared]] = {}


class RunwireError(Exception):
    """Base of every error that runwire raises on purpose. HTTP problems and metrics carry its stable `code`."""

    code: str = "internal"
    kind: ClassVar[Kind]
    others: ClassVar[tuple[Kind, ...]] = ()
    facts: ClassVar[tuple[Fact, ...]] = ()
    exit_code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = vars(cls)
        if "kind" in own:
            cls.code = cls.kind.code
            declare(cls.kind, error=cls)
        for kind in own.get("others", ()):
            declare(kind, error=cls)


def declare(kind: Kind, *, error: type[RunwireError] | None = None) -> Kind:
    """Adds a kind to the table. Raises TypeError when its code is taken."""
    if kind.code in _declared:
        raise TypeError(f"two errors have the code {kind.code}")
    _declared[kind.code] = Declared(kind, error)
    return kind


DECLARED: Final = MappingProxyType(_declared)
"""Every error that clients can see, by code."""


def counted_by(metric: str) -> tuple[str, ...]:
    """The codes that a metric counts, in the order of their declaration."""
    return tuple(code for code, declared in DECLARED.items() if declared.kind.counted == metric)
