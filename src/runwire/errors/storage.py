"""Errors of what runwire stands on: PostgreSQL, the bus, cold storage, and its own set-up."""

from __future__ import annotations

from runwire.errors.kinds import ExitCode, Kind, RunwireError


class BusUnavailable(RunwireError):
    """The bus did not accept a batch. The publisher tries its events again."""

    code = "bus_unavailable"


class DatabaseFailed(RunwireError):
    """PostgreSQL did not carry out a request. Base of every error that a database causes.

    A loop tries again until the error passes. The text is one of a bounded set and quotes no stored or sent value.
    """


class DatabaseUnavailable(DatabaseFailed):
    """No connection to PostgreSQL was available, or the server did not carry out the statement. A repeat may succeed.

    `sqlstate` is the server's code, or None when the server gave none.
    """

    kind = Kind("database_unavailable", 503, "The database does not answer. Nothing was changed.")
    exit_code = ExitCode.UNREACHABLE

    def __init__(self, detail: str, *, sqlstate: str | None = None) -> None:
        super().__init__(detail)
        self.sqlstate = sqlstate


class ReadTimedOut(DatabaseUnavailable):
    """A read exceeded its time limit and was cancelled."""

    kind = Kind("read_timed_out", 503, "The read exceeded its time limit.")

    def __init__(self, within_s: float | None = None) -> None:
        super().__init__("the read took too long" if within_s is None else f"the read took longer than {within_s:g} s")


class ConstraintViolated(DatabaseFailed):
    """The database refused a value: it breaks a constraint, or fits no column. Nothing was stored."""

    kind = Kind("value_refused", 422, "The database refused a value. Nothing was changed.")

    def __init__(self, constraint: str) -> None:
        super().__init__(f"constraint {constraint or 'unknown'} refused a value")
        self.constraint = constraint


class ArchiveUnavailable(RunwireError):
    """Cold storage does not answer, or is not set up here. Its files are untouched."""

    kind = Kind("archive_unavailable", 503, "The archive that holds the run's events does not answer.")
    exit_code = ExitCode.UNREACHABLE


class ArchiveCorrupt(ArchiveUnavailable):
    """Cold storage returned other bytes than were written. Restore the batch from another copy."""


class EmbeddedPostgresError(RunwireError):
    """The embedded PostgreSQL could not be found, started or reached. The text says what to do."""

    code = "embedded_postgres"
    exit_code = ExitCode.UNREACHABLE


class MigrationError(RunwireError):
    """The schema could not be brought up to date, or does not fit this version. The text names the cause."""

    code = "migration"


class ConfigurationError(RunwireError):
    """Settings that cannot work; `problems` lists every one found."""

    code = "configuration"
    exit_code = ExitCode.USAGE

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
