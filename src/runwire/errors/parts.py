"""Errors of parts: content of a run while it is made."""

from __future__ import annotations

from runwire.errors.kinds import RUN_ID, ExitCode, Fact, Kind, RunwireError

_PART = Fact("part", "n", int, "The number of the part.")
_ATTEMPT = Fact("attempt", "attempt", int, "The part's present attempt.")


class PartNotFound(RunwireError):
    kind = Kind("part_not_found", 404, "The run has no part with this number.")
    facts = (RUN_ID, _PART)
    exit_code = ExitCode.NOT_FOUND

    def __init__(self, run_id: str, *, n: int) -> None:
        super().__init__(f"run {run_id!r} has no part {n}")
        self.run_id = run_id
        self.n = n


class PartRefused(RunwireError):
    """The part does not take these bytes, or the run no further part. Nothing of the request was stored."""

    kind = Kind("part_ended", 409, "The part takes no more bytes.")
    others = (
        Kind("part_open", 409, "A part of this name is open."),
        Kind("part_too_large", 413, "The part would be larger than the service allows."),
        Kind("too_many_parts", 409, "The run has as many parts as the service allows."),
        Kind("part_rate_exceeded", 429, "The part is written faster than the service allows."),
    )
    facts = (RUN_ID, _PART, _ATTEMPT)

    def __init__(self, run_id: str, *, n: int, code: str = "part_ended", attempt: int | None = None) -> None:
        """`attempt` is told of a part that is open."""
        super().__init__(f"part {n} of run {run_id!r}: {code}")
        self.run_id = run_id
        self.n = n
        self.code = code
        self.attempt = attempt


class PartMoved(RunwireError):
    """The offset of an append is not the end of the part. The bytes of a repeated append may be stored already."""

    kind = Kind("part_offset_conflict", 409, "The part does not end at this offset.")
    facts = (RUN_ID, _PART, Fact("size", "size", int, "The size of the part in bytes."))

    def __init__(self, run_id: str, *, n: int, size: int) -> None:
        super().__init__(f"part {n} of run {run_id!r} ends at {size}")
        self.run_id = run_id
        self.n = n
        self.size = size


class PartReset(RunwireError):
    """The part was begun again, and the offset belongs to an attempt that is gone."""

    kind = Kind("part_reset", 410, "The part was begun again. Read it from its beginning.")
    facts = (RUN_ID, _PART, _ATTEMPT)

    def __init__(self, run_id: str, *, n: int, attempt: int) -> None:
        super().__init__(f"part {n} of run {run_id!r} is in attempt {attempt}")
        self.run_id = run_id
        self.n = n
        self.attempt = attempt


class PartErased(RunwireError):
    """The part was erased, or its time is over. Its bytes are gone."""

    kind = Kind("part_erased", 410, "The part was erased. Its bytes are gone.")
    facts = (RUN_ID, _PART)
    exit_code = ExitCode.NOT_FOUND

    def __init__(self, run_id: str, *, n: int) -> None:
        super().__init__(f"part {n} of run {run_id!r} was erased")
        self.run_id = run_id
        self.n = n
